"""The paper's two analyses with their controls, and the causal check of a path (docs/analyses.md)."""
