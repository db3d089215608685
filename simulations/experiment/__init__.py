"""Experiments: what to run, validated before anything happens."""
