"""Rectification: the path adapter, anchors, losses, training."""
