"""Passwords: which new ones are taken, how they are hashed, and in which threads."""
