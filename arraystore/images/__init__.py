"""Encoded images: probe, decode, resize and re-encode.

All functions may be called from many threads at once. For bytes that are not an image, or a damaged
one, they raise only `ValueError`. Its message states what is wrong but not where: the caller knows
the location.
"""
