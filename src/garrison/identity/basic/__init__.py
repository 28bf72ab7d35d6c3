"""HTTP Basic, off by default: a password with every request, and a hash with few of them."""
