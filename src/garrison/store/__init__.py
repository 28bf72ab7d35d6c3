"""What is written down: SQL through SQLAlchemy Core, one module for each table with every statement on it."""
