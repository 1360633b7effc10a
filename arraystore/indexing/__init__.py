"""Arithmetic on selections, positions and byte ranges; no I/O."""
