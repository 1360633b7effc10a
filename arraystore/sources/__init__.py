"""Sources: archives and folders of image files as sample tables."""
