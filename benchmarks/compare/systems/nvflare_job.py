"""NVIDIA FLARE: its FedAvg recipe, in its simulator, or on a server that is there. All sites take
part in each round, so there are ten, and each trains on the next client's examples of its own in
turn."""

import os
import sys
from pathlib import Path

import job as shared
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import ProdEnv, SimEnv

name, seed, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
job = shared.JOBS[name]
nodes, kit = int(os.environ.get("NODES", shared.PER_ROUND)), os.environ.get("KIT")
recipe = FedAvgRecipe(
    name="fedavg",
    model={"class_path": "nvflare_net.Net", "args": {"name": name, "seed": seed}},
    min_clients=nodes,
    num_rounds=job.rounds,
    train_script=str(Path(__file__).with_name("nvflare_client.py")),
    train_args=f"{name} {seed} {data}",
)
simulator = SimEnv(num_clients=nodes, workspace_root=f"{out}/workspace")
run = recipe.execute(simulator if kit is None else ProdEnv(kit))
(found,) = Path(run.get_result()).rglob("FL_global_model.pt")
shared.save(torch.load(found, weights_only=True)["model"], out)
