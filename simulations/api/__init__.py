"""fedkt from Python: experiments, runs, comparisons and their results.

The command line calls the same functions.
"""
