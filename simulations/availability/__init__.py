"""Availability of simulated clients: drop-outs, speeds, bandwidth and a deadline."""
