"""What the commands of `streaming.cli` do, one file for each kind; imported when the command is run."""
