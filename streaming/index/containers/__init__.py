"""Objects with many samples: one module for each format."""
