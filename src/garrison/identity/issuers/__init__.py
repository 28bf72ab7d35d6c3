"""Tokens that somebody else issued: their keys, and what they may do here."""
