"""What `make soak` runs for long, and the tests for a moment: see ``scripts/soak.py``."""
