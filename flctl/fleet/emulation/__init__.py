"""A fleet in Docker containers on one machine, and faults to try it with."""
