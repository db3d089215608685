"""Methods and other parts as they are shown: facts asked of each, and what their docstrings say."""
