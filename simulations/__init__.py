"""Simulations: grids, experiments, comparisons, reports and the command line."""
