"""What a search for what gets through is made of, whether a model is attacked with it or trained against it."""
