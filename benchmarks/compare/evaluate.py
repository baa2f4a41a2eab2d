"""Judges the final weights of any of the systems: on MNIST's test part, and by a digest of all
numbers, whatever file they are in.

    python evaluate.py FILE JOB MNIST
"""

import hashlib
import json
import sys

import job as shared
import torch

path, name, mnist = sys.argv[1:4]
torch.set_num_threads(1)
if path.endswith(".safetensors"):
    from safetensors.torch import load_file

    state = load_file(path)
else:
    state = torch.load(path, weights_only=True)
model = shared.model(name)
model.load_state_dict(state)
digest = hashlib.sha256()
for key, value in sorted(state.items()):
    digest.update(f"{key}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
found = shared.test(model, *shared.tensors(mnist, "test"))
print(json.dumps({**found, "sha256": digest.hexdigest()}))
