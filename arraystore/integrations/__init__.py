"""What other libraries and programs need: xarray, and images as files."""
