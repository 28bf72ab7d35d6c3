"""Access tokens and refresh families: issuing, verifying, rotating."""
