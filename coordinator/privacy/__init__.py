"""Differential privacy of the released models: what a round costs, the noise that pays for it, and the budget."""
