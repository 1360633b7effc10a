"""Parts of `make soak`; the tests run a few cases of each. See ``scripts/soak.py``."""
