"""What the backends read by obstore share: its source, listings, errors and life in a process."""
