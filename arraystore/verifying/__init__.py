"""Comparison of a store with itself, with its format and with its source."""
