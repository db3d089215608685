"""Personal read-outs: how a client turns its model's answers into its own. One read-out a file."""

from fedkt.readouts.gate import Gate
from fedkt.readouts.mix import Mix
from fedkt.readouts.nearest_prototype import NearestPrototype
from fedkt.readouts.prior import Prior
from fedkt.readouts.raw import Raw
from fedkt.readouts.readout import Answers, Ask, ReadOut, SettleWork

__all__ = [
    "Answers",
    "Ask",
    "Gate",
    "Mix",
    "NearestPrototype",
    "Prior",
    "Raw",
    "ReadOut",
    "SettleWork",
]
