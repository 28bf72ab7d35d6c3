"""Values without I/O that every other room speaks in: errors, clock, ids, durations, networks, principals."""
