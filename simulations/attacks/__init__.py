"""Attacks: what malicious clients upload instead of their answers."""

from fedkt.simulations.attacks.view import Attack, View

__all__ = ["Attack", "View"]
