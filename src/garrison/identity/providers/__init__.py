"""Sign in with another provider: OpenID Connect, where we are the client."""
