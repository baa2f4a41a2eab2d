"""The coordinator: the roster, the rounds of a run, its journal and its checkpoints."""
