"""What a client trains: the protocol, torch and scikit-learn, and the loop executor."""
