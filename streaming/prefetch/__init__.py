"""Reading ahead of the trainer in the announced order, independent of the cache."""
