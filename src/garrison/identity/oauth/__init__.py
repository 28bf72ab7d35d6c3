"""The OAuth authorization server: tokens for programs (RFC 6749, RFC 9700)."""
