"""A Flower app with light clients: Flower and NumPy only, a second of CPU for each message."""
