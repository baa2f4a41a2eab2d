"""pfl-research: its simulated backend with FederatedAveraging."""

import sys

import job as shared
import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

name, seed, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
job = shared.JOBS[name]
torch.set_num_threads(1)
torch.manual_seed(seed)
np.random.seed(seed)


class Net(nn.Module):
    """With the two methods that pfl asks for."""

    def __init__(self):
        super().__init__()
        self.layers = shared.model(name)

    def loss(self, x, y, is_eval=False):
        self.train(not is_eval)
        return nn.functional.cross_entropy(self.layers(shared.scaled(x)), y)

    @torch.no_grad()
    def metrics(self, x, y):
        self.eval()
        output = self.layers(shared.scaled(x))
        right = (output.argmax(1) == y).sum().item()
        loss = nn.functional.cross_entropy(output, y, reduction="sum").item()
        return {"loss": Weighted(loss, len(y)), "accuracy": Weighted(right, len(y))}


x, y = shared.tensors(data, "train")
shards = [torch.from_numpy(rows) for rows in shared.shards(job.clients, seed)]


def user(number):
    rows = shards[number][torch.randperm(len(shards[number]))]  # pfl itself does not shuffle
    return Dataset((x[rows], y[rows]), user_id=str(number))


net = Net()
model = PyTorchModel(
    net,
    local_optimizer_create=torch.optim.SGD,
    central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
)
training = FederatedDataset(user, get_user_sampler("random", range(job.clients)))
tests = CentralEvaluationCallback(
    Dataset(shared.tensors(data, "test")),
    model_eval_params=NNEvalHyperParams(local_batch_size=shared.TEST_BATCH),
    frequency=job.every or job.rounds,
)
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=job.rounds,
        evaluation_frequency=job.rounds + 1,
        train_cohort_size=shared.PER_ROUND,
        val_cohort_size=0,
    ),
    backend=SimulatedBackend(training_data=training, val_data=None),
    model=model,
    model_train_params=NNTrainHyperParams(
        local_learning_rate=job.lr, local_num_epochs=1, local_batch_size=shared.BATCH
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=shared.TEST_BATCH),
    callbacks=[tests] if job.every else [],
)
shared.save(net.layers.state_dict(), out)
