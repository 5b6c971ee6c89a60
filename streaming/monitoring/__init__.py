"""What people see of a run: metrics, diagnosis, charts next to the loss, a progress bar."""
