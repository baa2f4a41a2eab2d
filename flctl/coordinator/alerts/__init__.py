"""Alerts of the coordinator: what it observes, what it remembers, and where it sends notices."""
