"""Parts of an emulated fleet: names, limits, command lines; pure."""

import re
from typing import Any

import msgspec
from msgspec import Struct

from flctl.errors import UsageError
from flctl.settings import Partition, agent_names

DEFAULT = "flctl"
"""The fleet that need not be named."""
COORDINATOR = "coordinator"
"""The member that is not an agent; also its name on the fleet's network."""
PORT = 7700
STATE = "/var/lib/flctl"
TOKEN = f"{STATE}/join-token"
USER = 7700
"""User and group id in the images."""

FLEET = "io.flctl.fleet"
MEMBER = "io.flctl.member"
SPEC = "io.flctl.spec"
"""Labels of everything that is made: whose it is, what it is, and from which settings."""
TRAITS = ("profile", "shard", "port")
"""What `ps` shows of a member, as labels too."""


class Profile(Struct, frozen=True):
    """The limits of a container that plays one kind of Pi."""

    name: str
    cores: float
    """Cores of this machine that do about as much as the Pi's four; as in compose.yaml."""
    memory_mb: int
    processor: str
    """For an arm64 image on another machine: what qemu emulates."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("pi3", 0.4, 1024, "cortex-a53"),
        Profile("pi4", 0.8, 2048, "cortex-a72"),
        Profile("pi5", 1.0, 8192, "cortex-a76"),
    )
}


def own_image(kind: str) -> str:
    from flctl import __version__

    return f"flctl-{kind}:{__version__}"


class EmulationPlan(Struct, frozen=True, kw_only=True):
    """Arguments of `flctl emulate up`."""

    fleet: str
    agents: int
    profile: Profile
    task: str = "ecg"
    partition: Partition = "iid"
    alpha: float = 0.5
    shard_seed: int = 1
    image: str = msgspec.field(default_factory=lambda: own_image("agent"))
    coordinator_image: str = msgspec.field(default_factory=lambda: own_image("coordinator"))
    accept_weights: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return agent_names(self.agents)

    def coordinator(self, port: int) -> "Spec":
        """`port` of this machine leads to it."""
        return Spec(
            name=COORDINATOR,
            image=self.coordinator_image,
            command=("coordinator", "--bind", f"0.0.0.0:{PORT}"),
            traits={"port": str(port)},
        )

    def agent(self, name: str, server_key: str, engine_cores: int) -> "Spec":
        shard = f"{self.names.index(name) + 1}/{self.agents}"
        profile = self.profile
        return Spec(
            name=name,
            image=self.image,
            command=(
                "agent", "--coordinator", f"{COORDINATOR}:{PORT}", f"--server-key={server_key}",
                "--join-token-file", TOKEN, "--name", name, "--task", self.task,
                "--shard", shard, "--partition", self.partition, "--alpha", str(self.alpha),
                "--shard-seed", str(self.shard_seed), "--threads", "1",
                *(("--accept-weights",) if self.accept_weights else ()),
            ),
            environment={"QEMU_CPU": profile.processor},
            cores=min(profile.cores, float(engine_cores)),
            memory_mb=profile.memory_mb,
            traits={"profile": profile.name, "shard": shard},
        )  # fmt: skip


class Spec(Struct, frozen=True, kw_only=True):
    """All that makes one container what it is."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}
    cores: float | None = None
    memory_mb: int | None = None
    traits: dict[str, str] = {}

    def digest(self, image_id: str) -> str:
        """Digest that stays the same while the container need not be recreated."""
        import hashlib

        return hashlib.sha256(msgspec.json.encode([self, image_id])).hexdigest()[:16]

    def labels(self, fleet: str, image_id: str) -> dict[str, str]:
        traits = {f"io.flctl.{name}": value for name, value in self.traits.items()}
        return {FLEET: fleet, MEMBER: self.name, SPEC: self.digest(image_id), **traits}

    def options(self, fleet: str) -> dict[str, Any]:
        """For the SDK's `containers.create`: nothing runs as root or with a capability."""
        limits: dict[str, Any] = {"pids_limit": 128}
        if self.cores is not None:
            limits["nano_cpus"] = int(self.cores * 1e9)
        if self.memory_mb is not None:
            limits["mem_limit"] = limits["memswap_limit"] = f"{self.memory_mb}m"
        if "port" in self.traits:
            limits["ports"] = {f"{PORT}/tcp": ("127.0.0.1", int(self.traits["port"]))}
        return {
            "name": container_name(fleet, self.name),
            "hostname": self.name,
            "command": list(self.command),
            "environment": self.environment,
            "network": fleet,
            "volumes": {container_name(fleet, self.name): {"bind": STATE, "mode": "rw"}},
            "read_only": True,
            "tmpfs": {"/tmp": "size=64m,mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "restart_policy": {"Name": "unless-stopped"},
            "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
            **limits,
        }


def container_name(fleet: str, member: str) -> str:
    """Name of a member's container, and of its volume."""
    return f"{fleet}-{member}"


def of_fleet(fleet: str) -> str:
    """Option for a suggested command, so that it finds this fleet."""
    return "" if fleet == DEFAULT else f" --fleet {fleet}"


def fleet_name(text: str) -> str:
    """Raises UsageError for what cannot be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", text):
        raise UsageError(f"--fleet '{text}': up to 31 of a-z 0-9 - and a letter or digit first")
    return text


def profile_named(text: str) -> Profile:
    if text not in PROFILES:
        raise UsageError(f"--profile '{text}': one of {', '.join(PROFILES)}")
    return PROFILES[text]


def rate_bits(text: str) -> int:
    """`256kbit`, `1mbit` or `1.5mbit` in bits a second. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(kbit|mbit|gbit)", text.strip().lower())
    factor = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
    bits = int(float(found[1]) * factor[found[2]]) if found else 0
    if not 8_000 <= bits <= 10**10:
        raise UsageError(
            f"--rate '{text}': write for instance 256kbit or 2mbit, from 8kbit to 10gbit"
        )
    return bits
