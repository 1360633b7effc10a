"""Locations, and byte ranges of local files and of object stores."""
