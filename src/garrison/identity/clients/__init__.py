"""Machines and other people's programs: OAuth clients, and what a token of theirs is."""
