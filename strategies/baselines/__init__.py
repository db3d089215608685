"""Baselines that other methods are compared with: nothing is shared."""
