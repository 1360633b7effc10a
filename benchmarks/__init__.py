"""Programs that time arraystore at true size; each module documents itself."""
