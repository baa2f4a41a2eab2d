"""A fleet of agents as processes on this machine, over the same sockets as real ones."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from flctl.agent.state import own_models_of, private_of, residuals_of
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.models import own_models_path
from flctl.errors import RunError
from flctl.files import Lock, explained, is_locked, make_folder
from flctl.learning.origin import VARIABLES, of_settings
from flctl.learning.whole import private_path
from flctl.settings import RunSettings
from flctl.transport.keypair import load_or_make
from flctl.transport.keys import Keyring

logger = logging.getLogger(__name__)

STOP_S = 10.0
"""How long an agent may take to stop, on a busy disk too, before it is killed."""
RESTART_S = 1.0
"""A dead agent is started again after this time, doubled each time it dies young."""
RESTARTS = 5
YOUNG_S = 20.0


PREFIX = "flctl-local-"


@contextlib.contextmanager
def agents_folder() -> Iterator[Path]:
    """A temporary folder for keys and logs of agents that live no longer than this process.

    One left behind by kill -9 is removed by the next process.
    """
    with contextlib.ExitStack() as stack:
        with explained(Path("the temporary folder"), "keep the agents there", "TMPDIR"):
            base = Path(tempfile.gettempdir())
            _remove_left(base)
            made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        stack.callback(Lock(made / "lock", f"{made} is in use").release)
        folder = made.rename(base / made.name.removeprefix("."))  # seen only now that it is locked
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _remove_left(base: Path) -> None:
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            own = left.lstat().st_uid == os.getuid() and not left.is_symlink()
            if own and not is_locked(left / "lock"):
                shutil.rmtree(left, ignore_errors=True)


OWN_DATA = (
    "--min-examples", "1", "--min-batch-size", "1", "--min-batches", "1",
    "--max-rounds-per-hour", "0", "--accept-weights",
)  # fmt: skip
"""No limits: the data are those of the operator, on his own machine. And a run with `--local`
makes the same bytes as one with `--virtual`."""


def _link(link: Path, folder: Path) -> None:
    kept = make_folder(folder).absolute()
    make_folder(link.parent)
    with explained(link, "keep what is not sent there"):
        link.symlink_to(kept)


class _Process(Struct):
    popen: subprocess.Popen[bytes]
    began: float
    deaths: int = 0
    again_at: float | None = None


class LocalFleet:
    """Agents `names` of an embedded run; they end with this process, however it ends.

    `folder` holds each agent's state folder and log.
    """

    def __init__(
        self,
        folder: Path,
        keyring: Keyring,
        endpoint: str,
        names: tuple[str, ...],
        settings: RunSettings,
        verbose: bool,
    ) -> None:
        self._folder = folder
        self._keyring = keyring
        self._endpoint = endpoint
        self._settings = settings
        self._verbose = verbose
        self._agents: dict[str, _Process] = {}
        self._names = names
        for name in names:
            keyring.add(name, load_or_make(self._state(name) / "agent.key").public, "agent")

    def start(self, run: RunFolder) -> None:
        """`run` keeps what the agents have for themselves (what top-k has not sent, own models and
        private tensors): their own folders do not last."""
        started = run.history(lean=True).started
        for name in self._names:
            state = self._state(name)
            if self._settings.compression == "topk":
                _link(residuals_of(state, run.name), run.residuals_path(name))
            if self._settings.personalise:
                _link(own_models_of(state), own_models_path(run, name))
            if started is not None and started.private is not None:
                _link(private_of(state, run.name), private_path(run.path, name))
            self._agents[name] = _Process(self._spawn(name), time.monotonic())

    def check(self) -> None:
        """Start again what has died. Raises RunError when an agent dies again and again."""
        now = time.monotonic()
        for name, agent in self._agents.items():
            if agent.again_at is not None:
                if now >= agent.again_at:
                    agent.popen, agent.began, agent.again_at = self._spawn(name), now, None
                continue
            code = agent.popen.poll()
            if code is None:
                continue
            agent.deaths = agent.deaths + 1 if now - agent.began < YOUNG_S else 1
            logger.warning("agent=%s ended with %d; starting it again", name, code)
            if agent.deaths > RESTARTS:
                raise RunError(f"agent {name} keeps crashing: {self._last_words(name)}")
            agent.again_at = now + RESTART_S * 2 ** (agent.deaths - 1)

    def stop(self) -> None:
        """End all agents and their workers; nothing is left afterwards."""
        for agent in self._agents.values():
            if agent.popen.stdin is not None:
                with contextlib.suppress(OSError):
                    agent.popen.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                agent.popen.terminate()
        until = time.monotonic() + STOP_S
        for name, agent in self._agents.items():
            try:
                agent.popen.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("agent=%s does not stop; killing it", name)
                agent.popen.kill()
                agent.popen.wait()
        self._agents.clear()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        settings = self._settings
        command = [
            sys.executable, "-P", "-m", "flctl", "agent",
            "--coordinator", self._endpoint,
            "--server-key", self._keyring.server.public,
            "--name", name,
            "--state", str(self._state(name)),
            "--task", settings.task,
            "--shard", f"{self._names.index(name) + 1}/{len(self._names)}",
            "--partition", settings.partition,
            "--alpha", str(settings.alpha),
            "--shard-seed", str(settings.seed),
            "--device", settings.device,
            "--threads", str(settings.threads),
            *OWN_DATA,
            "--exit-with-parent",
        ]  # fmt: skip
        if settings.data is not None:
            command += ["--data", f"{settings.dataset}={settings.data}"]
        if self._verbose:
            command.append("--verbose")
        read_as = of_settings(settings).given
        command += [f"--{key.replace('_', '-')}={value}" for key, value in read_as.items()]
        elsewhere = {key: at for key, at in os.environ.items() if key not in VARIABLES.values()}
        log = None if self._verbose else self._log(name).open("ab")
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log or 2, stderr=log, env=elsewhere,
                start_new_session=True,
            )  # fmt: skip
        finally:
            if log is not None:
                log.close()

    def _state(self, name: str) -> Path:
        return self._folder / name

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        with contextlib.suppress(OSError):
            lines = self._log(name).read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1][-300:]
        return "its log is empty"
