"""Zarr v3 groups: read and written."""
