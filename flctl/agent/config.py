"""Configuration of an agent at its start, as one frozen value."""

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from flctl.labels import Labels
from flctl.settings import AgentName, Count, DeviceName, Threads
from flctl.wire.messages import Digest, Limits, Role
from flctl.worker.jobs import DataSource

Positive = Annotated[float, Meta(gt=0)]


def usual_threads(cores: int) -> int:
    """Half of the cores: more threads than idle cores are many times slower, and a Pi has other
    things to do."""
    return max(1, cores // 2)


class Choices(Struct, frozen=True):
    """Settings of an agent that its fleet has in common, besides the owner's limits."""

    role: Role = "train"
    device: DeviceName = "auto"
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """0: the usual number there."""
    tasks: tuple[str, ...] = ()
    allow_tasks: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        said = (self.role, self.device, self.threads, sorted(self.tasks), sorted(self.allow_tasks))
        return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    coordinator: str
    """HOST:PORT of the coordinator."""
    server_key: str
    """Its public key in Z85, 40 characters."""
    state: Path
    """Folder of this agent alone: its key pair, its name, blobs too large for memory, what top-k
    has not sent yet."""
    name: AgentName | None = None
    """To be asked for when joining with a token; the coordinator's list decides."""
    join_token: str | None = None
    join_token_file: Path | None = None
    """File whose token may be replaced: an agent that waits for a shard takes the next
    token, instead of ending, and reads the file again."""
    role: Role = "train"
    """With "evaluate" it is asked for metrics on its data and never trains."""
    datasets: dict[str, DataSource] = field(default_factory=lambda: {"default": DataSource()})
    shard_from_coordinator: bool = False
    """Use only the part of each data set that the coordinator assigns to this agent when it
    joins."""
    tasks: tuple[str, ...] = ()
    """Those that are enabled; none named: all that are installed."""
    allow_tasks: tuple[str, ...] = ()
    """Enabled tasks that the coordinator may ask for; empty: all of them."""
    limits: Limits = Limits()
    """Limits on what the coordinator may ask for."""
    labels: Labels = {}
    """Facts about this device that runs choose agents by; an operator's count more."""
    share_log: bool = True
    """Whether the coordinator's admins may read this agent's log."""
    device: DeviceName = "auto"
    threads: Threads = usual_threads(os.cpu_count() or 0)
    """Number of torch threads."""
    image: Digest | None = None
    """Digest of its container image, as `flctl_container` of the playbooks passes it."""
    heartbeat_s: Positive = 5.0
    """Until the coordinator says otherwise."""
    offer_s: Positive = 30.0
    """Seconds between two offers of a finished update without an answer."""
    memory_limit_bytes: Count = 64 * 1024 * 1024
    """Blobs beyond it go to the disk."""
    worker_idle_s: Positive = 60.0
    """Time without work after which the worker gives its memory back."""

    @property
    def choices(self) -> Choices:
        threads = 0 if self.threads == usual_threads(os.cpu_count() or 0) else self.threads
        return Choices(self.role, self.device, threads, self.tasks, self.allow_tasks)
