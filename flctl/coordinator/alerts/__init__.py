"""Alerts of the coordinator: what it observes, what it remembers, and whom it tells."""
