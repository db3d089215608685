"""Attacks: functions that replace the answers of malicious clients."""

from fedkt.simulations.attacks.view import Attack, View

__all__ = ["Attack", "View"]
