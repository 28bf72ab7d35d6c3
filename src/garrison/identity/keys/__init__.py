"""API keys: for machines of a person's, and for apps that have nobody signed in yet."""
