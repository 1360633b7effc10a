"""Programs that time arraystore at true size: see the first lines of each module."""
