"""The commands of `jpu`, a module for each group of them; flows/cli.py puts them together."""
