"""`python -m streaming.cli` is the command `streaming`."""

from streaming.cli.app import main

main()
