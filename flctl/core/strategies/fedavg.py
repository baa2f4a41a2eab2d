"""FedAvg: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: the new model is the mean of the agents' models, weighted
by their numbers of examples.
"""

from flctl.core.strategies.strategy import Strategy


class FedAvg(Strategy, frozen=True):
    summary = "mean of the models, weighted by examples"
    paper = "McMahan et al. 2017"
