"""What agents learn and how: tasks, their data, local training, evaluation.

Nothing is imported here: `flctl.learning.registry` must stay free of torch.
"""
