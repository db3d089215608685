"""Learners: the protocol, torch and scikit-learn, and the loop executor."""
