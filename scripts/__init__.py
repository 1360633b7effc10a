"""Programs for the developers of arraystore."""
