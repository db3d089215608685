"""Personal read-outs: how a client turns logits into its personal answer."""
