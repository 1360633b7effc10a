"""Samples of stores written in the formats of other programs."""
