"""The Docker engine of a host, by its command line: it is there wherever the engine is.

The SDK would have to be installed on every host beside it, and fit its version.
"""

import os
import subprocess


class Unusable(Exception):
    pass


class NotInstalled(Unusable):
    pass


def docker(*args, env=None):
    """What it prints. `env`: more variables for it, which `--env NAME` passes on unseen."""
    try:
        done = subprocess.run(
            ["docker", *args], capture_output=True, check=False, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise NotInstalled(
            "Docker is not installed here: run the playbook provision first"
        ) from None
    if done.returncode:
        raise Unusable(f"docker {' '.join(args[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
