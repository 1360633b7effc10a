"""Stores for other libraries and programs: xarray datasets, and images as files."""
