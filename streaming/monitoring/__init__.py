"""Tools to watch a run: metrics, diagnosis, charts next to the loss, a progress bar."""
