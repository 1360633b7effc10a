"""Archives and trees of image files, as tables of samples."""
