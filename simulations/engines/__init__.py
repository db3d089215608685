"""Engines: grids in this process and on Ray, Flower's own, and their simulated clients."""
