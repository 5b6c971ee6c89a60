"""The commands of `streaming.cli.app`, one module each, imported when the command runs."""
