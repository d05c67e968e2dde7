"""The command line: `python -m vitutils`, a module for each command."""
