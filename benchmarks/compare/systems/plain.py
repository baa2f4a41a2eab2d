"""Plain PyTorch: FedAvg as one would write it in a loop."""

import copy
import random
import sys

import job as shared
import torch

name, seed, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
job = shared.JOBS[name]
torch.set_num_threads(1)
torch.manual_seed(seed)
draw = random.Random(seed)
x, y = shared.tensors(data, "train")
tests = shared.tensors(data, "test")
shards = [torch.from_numpy(rows) for rows in shared.shards(job.clients, seed)]
model = shared.model(name)
state = copy.deepcopy(model.state_dict())
for number in range(1, job.rounds + 1):
    total = {key: torch.zeros_like(value) for key, value in state.items()}
    for client in draw.sample(range(job.clients), shared.PER_ROUND):
        model.load_state_dict(state)
        shared.train(model, x[shards[client]], y[shards[client]], job.lr)
        for key, value in model.state_dict().items():
            total[key] += value / shared.PER_ROUND
    state = total
    if job.every and number % job.every == 0:
        model.load_state_dict(state)
        print(number, shared.test(model, *tests), flush=True)
shared.save(state, out)
