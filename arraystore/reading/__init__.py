"""One stored split: its columns and its encoded images."""
