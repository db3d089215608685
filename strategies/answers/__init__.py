"""Methods whose clients share answers on a public set."""
