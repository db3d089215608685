"""What methods are compared with: nothing is shared."""
