"""Methods made for a single round of communication."""
