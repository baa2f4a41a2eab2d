"""NVIDIA FLARE: its FedAvg recipe, in its simulator. All sites take part in each round, so there
are ten, and each trains on the next client's examples of its own in turn."""

import sys
from pathlib import Path

import job as shared
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

name, seed, data, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
job = shared.JOBS[name]
recipe = FedAvgRecipe(
    name="fedavg",
    model={"class_path": "nvflare_net.Net", "args": {"name": name, "seed": seed}},
    min_clients=shared.PER_ROUND,
    num_rounds=job.rounds,
    train_script=str(Path(__file__).with_name("nvflare_client.py")),
    train_args=f"{name} {seed} {data}",
)
run = recipe.execute(SimEnv(num_clients=shared.PER_ROUND, workspace_root=f"{out}/workspace"))
(found,) = Path(run.get_result()).rglob("FL_global_model.pt")
shared.save(torch.load(found, weights_only=True)["model"], out)
