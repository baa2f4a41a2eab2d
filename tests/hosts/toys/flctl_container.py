"""Plays the module that runs a container: it writes down what it was asked for."""

import fcntl
import json
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

PASSED = (
    "name", "state", "image", "hostname", "env", "volumes", "ports", "tmpfs", "memory", "pids",
    "network", "stop_s", "command", "health",
)  # fmt: skip


def main():
    module = AnsibleModule({name: {"type": "raw"} for name in PASSED}, supports_check_mode=True)
    root, host = Path(os.environ["TOY_ROOT"]), os.environ["TOY_HOST"]
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world = json.loads((root / "world.json").read_text())
        mine = world["hosts"][host]
        role = module.params["name"].removeprefix("flctl-")
        wish = {key: value for key, value in module.params.items() if value is not None}
        exists = role in mine
        if wish.get("state") == "absent":
            changed, then = exists, None
        else:
            then = wish | {"image": mine["tags"].get(wish["image"])}
            changed = wish.get("state") != "looked" and mine.get(role) != then
        if changed and not module.check_mode:
            if then is None:
                del mine[role]
            else:
                mine[role] = then
            (root / "world.json").write_text(json.dumps(world))
    module.exit_json(changed=changed, exists=exists)


if __name__ == "__main__":
    main()
