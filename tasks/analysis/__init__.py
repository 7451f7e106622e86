"""What the stage `analyze` does with the models of a finished run: its samples, its three parts, its pages."""
