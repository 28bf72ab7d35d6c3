"""Accounts: a person's address, roles and state, and the counters that end what was issued to them."""
