"""The Docker engine of a host, through its command line, which every host with an engine has.

The SDK would have to be installed on every host as well, in a version that fits the engine.
"""

import os
import subprocess


class Unusable(Exception):
    pass


class NotInstalled(Unusable):
    pass


def docker(*args, env=None):
    """Its output. `env`: further variables; `--env NAME` passes them on without showing them."""
    try:
        done = subprocess.run(
            ["docker", *args], capture_output=True, check=False, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise NotInstalled(
            "Docker is not installed on this host: run the playbook provision first"
        ) from None
    if done.returncode:
        raise Unusable(f"docker {' '.join(args[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
