"""Experiments: configurations of runs, validated before anything runs."""
