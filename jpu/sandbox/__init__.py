"""The sandbox: an invented world with secrets, and the small subject that guards them."""
