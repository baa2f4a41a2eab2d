"""FLARE makes the model itself, on the server: a class and its arguments."""

import job as shared
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, name, seed):
        torch.manual_seed(seed)
        super().__init__(*shared.model(name))
