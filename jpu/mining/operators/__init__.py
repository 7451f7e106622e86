"""Rule-based mutation operators, one file per source; `jpu.mining.mutations` is their registry."""
