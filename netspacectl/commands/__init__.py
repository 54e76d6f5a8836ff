"""A module for each noun, with the command of that name in `command`."""
