"""Devices that signed in before: their own sign-in budget, so that a stranger cannot lock their owner out."""
