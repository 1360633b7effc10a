"""The command ``arraystore``."""
