"""Enforces the policy: one flat chain of layers in the order of a request's way, compiled per route at start."""
