"""Byte ranges of local files and of object stores."""
