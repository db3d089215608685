"""Personal read-outs: how a client turns logits into its personal answer."""

from fedkt.readouts.blends import choose, mean_losses

__all__ = ["choose", "mean_losses"]
