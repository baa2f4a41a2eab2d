"""FedProx: Li et al. 2020, "Federated Optimization in Heterogeneous Networks": FedAvg whose local
training is held to the round's model by μ/2 ‖w − wₜ‖².
"""

from flctl.core.strategies.strategy import Strategy


class FedProx(Strategy, frozen=True):
    summary = "the same; local training is kept close to the round's model"
    paper = "Li et al. 2020"
    training = {"proximal_mu": 0.01}  # noqa: RUF012  # a constant of the class
