"""Sign-in: throttle, hash, session, in this order."""
