"""What a run folder holds: rounds, checkpoints, and the figures read from them."""
