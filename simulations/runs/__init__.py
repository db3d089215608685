"""Runs and comparisons: from an experiment to a folder."""
