"""Flower: a ServerApp and a ClientApp, in its simulation."""

import os
import random

import job as shared
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

name, seed = os.environ["JOB"], int(os.environ["SEED"])
data, out = os.environ["MNIST"], os.environ["OUT"]
job = shared.JOBS[name]
nodes = int(os.environ.get("NODES", job.clients))
client_app = ClientApp()
server_app = ServerApp()
loaded = {}
"""Read once in each process."""


@client_app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    if not loaded:
        loaded["data"] = shared.tensors(data, "train")
        loaded["shards"] = shared.shards(job.clients, seed)
        loaded["model"] = shared.model(name)
    client, number = context.node_config["partition-id"], message.content["config"]["server-round"]
    torch.manual_seed(hash((seed, number, client)))
    rows = torch.from_numpy(loaded["shards"][client])
    x, y = (part[rows] for part in loaded["data"])
    model = loaded["model"]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = shared.train(model, x, y, job.lr)
    metrics = MetricRecord({"loss": loss, "num-examples": len(y)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)  # FedAvg draws the nodes of a round from it
    model, tests = shared.model(name), shared.tensors(data, "test")

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not (job.every and number and number % job.every == 0):
            return None
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord(shared.test(model, *tests))

    strategy = FedAvg(
        fraction_train=min(1.0, shared.PER_ROUND / nodes),
        fraction_evaluate=0.0,
        min_available_nodes=nodes,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=job.rounds,
        evaluate_fn=evaluate,
    )
    shared.save(result.arrays.to_torch_state_dict(), out)


if __name__ == "__main__":
    import flwr_app  # by name: Ray would pickle __main__, with the data, for each client
    from flwr.simulation import run_simulation

    run_simulation(
        server_app=flwr_app.server_app,
        client_app=flwr_app.client_app,
        num_supernodes=job.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
