"""The rules of a round, of the roster and of the average: no sockets, no clock, no torch."""
