"""Which neurons and heads carry an answer: activations, attribution, selection."""
