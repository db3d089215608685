"""The server: the base of all strategies, its conversation with the clients, its checks."""
