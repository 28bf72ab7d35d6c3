"""Sessions: browsers by cookie, others by token; cached verification, idle and absolute ends, revocation."""
