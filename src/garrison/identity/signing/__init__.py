"""Keys that sign our tokens: made, sealed, shown in the JWKS, rotated, revoked; and the one place that verifies."""
