"""Figures over clients, and what uploads give away."""
