"""Fleets: of real agents, of agents on this machine, of simulated clients."""
