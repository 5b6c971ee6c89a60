"""Reading ahead of the trainer in the announced order. It does not know the cache."""
