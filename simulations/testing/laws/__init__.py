"""The laws, as tests of pytest."""
