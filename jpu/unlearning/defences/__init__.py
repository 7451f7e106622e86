"""Defences, a file each: a published loss as a function of tensors, and the class that feeds it from a step's batch."""
