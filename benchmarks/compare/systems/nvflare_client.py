"""A site's script."""

import sys

import job as shared
import nvflare.client as flare
import torch

name, seed, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
job = shared.JOBS[name]
torch.set_num_threads(1)
x, y = shared.tensors(data, "train")
tests = shared.tensors(data, "test")
shards = [torch.from_numpy(rows) for rows in shared.shards(job.clients, seed)]
model = shared.model(name)
flare.init()
site = int(flare.get_site_name().removeprefix("site-")) - 1
own = range(site, job.clients, shared.PER_ROUND)
while flare.is_running():
    received = flare.receive()
    if received is None:
        break
    number = received.current_round
    model.load_state_dict(received.params)
    metrics = {}
    if site == 0 and job.every and number and number % job.every == 0:
        metrics = shared.test(model, *tests)
        print(number, metrics, flush=True)
    torch.manual_seed(hash((seed, number, site)))
    rows = shards[own[number % len(own)]]
    shared.train(model, x[rows], y[rows], job.lr)
    flare.send(
        flare.FLModel(
            params=model.state_dict(),
            metrics=metrics or None,
            meta={"NUM_STEPS_CURRENT_ROUND": len(rows) // shared.BATCH},
        )
    )
