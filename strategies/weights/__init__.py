"""Methods whose clients share weights."""
