"""arraystore."""
