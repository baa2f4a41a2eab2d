"""The coordinator's peers: agents, operators, strangers."""
