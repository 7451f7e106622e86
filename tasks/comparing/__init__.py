"""`jpu compare`: method × subject × seed from one file of experiments, each run once (docs/comparison.md)."""
