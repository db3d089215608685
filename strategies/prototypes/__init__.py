"""Methods that share knowledge about classes, or about single samples: no public set is needed."""
