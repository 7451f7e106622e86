"""Mutation operators, the jailbreak buffer, the refusal loss and on-policy mining."""
