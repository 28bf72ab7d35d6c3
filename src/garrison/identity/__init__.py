"""Who people are: accounts, passwords, sessions, devices, sign-in. One folder per capability."""
