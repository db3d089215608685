"""fedkt from Python: experiments, runs, comparisons and their results."""
