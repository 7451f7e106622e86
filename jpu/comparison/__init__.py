"""Methods against each other: what one run of a method showed, and what all of them show together.

Reads and writes no settings, and trains nothing: `tasks.comparing` runs the methods, this room measures and counts.
"""
