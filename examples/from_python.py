"""Train the heartbeat task with simulated clients, from Python: `python from_python.py`.

On a fleet: `fleet=flctl.connect("SERVER:7700", key="my.key", server_key="flk_…")` in place of
`virtual=4`.
"""

import flctl

run = flctl.train(task="ecg", virtual=4, rounds=2, federate_after_n_batches=2)
for done in run:
    figure = done.metrics["macro_f1"]
    print(f"round {done.round}: macro-F1 {figure:.3f}, {len(done.agents)} clients")
model = run.model("best")
print(f"run {run.name} {run.ended}: {sum(p.numel() for p in model.parameters())} parameters")
