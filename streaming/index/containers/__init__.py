"""Objects that hold many samples: one module for each format."""
