"""What a user holds: splits, batches, episodes and saved selections."""
