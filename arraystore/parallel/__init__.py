"""Work in threads, processes and clusters."""
