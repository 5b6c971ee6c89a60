"""What the commands of `streaming.cli.app` do, one file for each kind; imported when the command is run."""
