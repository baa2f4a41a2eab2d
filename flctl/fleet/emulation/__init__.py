"""A fleet in Docker containers on one machine, and faults to test it with."""
