"""Programs for those who work on arraystore."""
