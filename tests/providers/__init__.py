"""Tests of signing in at a provider that others wrote."""
