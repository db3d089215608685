"""Personal read-outs: how a client turns logits into an answer of its own."""
