"""Objects of a web server."""
