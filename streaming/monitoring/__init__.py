"""What people see of a run: metrics, diagnosis, charts beside the loss, a progress bar."""
