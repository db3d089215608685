"""``python -m fedkt.simulations.cli``: the command ``fedkt``."""

from fedkt.simulations.cli.main import main

main()
