"""Methods for clients of several domains, with or without an unlabelled target."""
