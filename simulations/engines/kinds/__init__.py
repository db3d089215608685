"""The kinds of engines, one a file; what they run on is imported when one is opened."""
