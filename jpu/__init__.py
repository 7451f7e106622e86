"""Jailbreak Path Unlearning: the method as a library."""
