"""The read path: fetches, caches, reads ahead, and answers workers."""
