"""Own models over real processes: what is killed does it again, the same; nothing leaves."""

import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from real_fleet import RealFleet, flctl, json_lines, wait_for

from flctl.wire.parameters import ParameterFile

EPOCHS = 900
"""They take seconds: longer than a status, so that they are caught in the middle."""


@pytest.fixture
def fleet(tmp_path: Path) -> Generator[RealFleet, None, None]:
    made = RealFleet(tmp_path)
    yield made
    made.close()


def own(fleet: RealFleet, agent: str) -> dict[str, bytes]:
    """Files of the agent's own models, by name."""
    folder = fleet.folder / agent / "own" / "personal"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pieces_of(path: Path) -> list[bytes]:
    """Pieces of 32 bytes of each tensor."""
    with path.open("rb") as file:
        model = ParameterFile(file.fileno(), str(path))
        whole = [model.read(spec).tobytes() for spec in model.specs]
    return [each[at : at + 32] for each in whole for at in range(0, len(each) - 31, 32)]


def test_an_own_model_survives_kills_and_never_leaves(fleet: RealFleet) -> None:
    """The worker is killed in the middle, then the supervisor; it is made again, the same as
    without any kill. `predict` on the device uses it, and says so."""
    fleet.start_coordinator()
    for name in ("pi-11", "pi-12"):
        fleet.start_agent(name, "--min-batch-size", 1, token=fleet.token())
    fleet.until_ready("pi-11", "pi-12")
    done = fleet.train("--rounds", 1, "--personalise", "--personal-epochs", 3)
    assert done.returncode == 0, done.stderr
    told = json_lines(done.stdout)
    assert {e["agent"] for e in told if e["event"] == "personal"} == {"pi-11", "pi-12"}
    assert told[-1]["personal"] == ["pi-11", "pi-12"]
    run = told[-1]["run"]
    (record,) = [name for name in own(fleet, "pi-11") if name.endswith(".json")]
    assert json.loads(own(fleet, "pi-11")[record])["run"] == run

    # Killed twice, in the middle.
    order = ("personalise", run, "--state", fleet.state, "--agents", "pi-12", "--epochs", EPOCHS)
    log = fleet.folder / "personalise.log"
    process = fleet.start("personalise", log, *order, "--json")
    at_work = lambda: fleet.status()["pi-12"].get("progress")  # noqa: E731
    wait_for(at_work, "pi-12 to train")
    worker = fleet.worker_of("pi-12")
    assert worker is not None
    worker.send_signal(signal.SIGKILL)
    wait_for(lambda: "trying again" in fleet.log("pi-12"), "the worker to be started again")
    wait_for(at_work, "pi-12 to train again")
    fleet.kill("pi-12")
    assert sum(name.endswith(".json") for name in own(fleet, "pi-12")) == 1
    fleet.start_agent("pi-12", "--min-batch-size", 1)
    assert process.wait(240) == 0, log.read_text()
    after_kills = own(fleet, "pi-12")

    # The same without a kill, from nothing; and what is there is not made again.
    for path in (fleet.folder / "pi-12" / "own" / "personal").iterdir():
        path.unlink()
    assert flctl(*order).returncode == 0
    again = own(fleet, "pi-12")
    assert again.items() <= after_kills.items() and len(again) == 2
    (model,) = [name for name in again if name.endswith(".safetensors")]
    path = fleet.folder / "pi-12" / "own" / "personal" / model
    made = path.stat().st_mtime_ns
    assert flctl("label", "pi-12", "site=a", "--state", fleet.state).returncode == 0
    by_label = ("personalise", run, "--state", fleet.state, "--epochs", EPOCHS, "--where")
    chosen = json_lines(flctl(*by_label, "site=a", "--json").stdout)
    assert (chosen[0]["agents"], chosen[-1]["agents"]) == (["pi-12"], ["pi-12"])
    assert path.stat().st_mtime_ns == made
    for more in (("site=b",), ("site=a", "--agents", "pi-12")):
        refused = flctl(*by_label, *more)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr

    # Nothing of it is with the coordinator.
    pieces = pieces_of(path)
    assert len(pieces) > 1000
    best = next(fleet.state.glob("runs/*/best.safetensors")).read_bytes()
    changed = [piece for piece in pieces if piece not in best]
    assert len(changed) > len(pieces) / 2
    for file in (p for p in fleet.state.rglob("*") if p.is_file()):
        found = file.read_bytes()
        assert not any(piece in found for piece in changed), file

    # On the device.
    data = fleet.folder / "pi-12.npz"
    state = ("--state", fleet.folder / "pi-12")
    for named in (next(fleet.state.glob("runs/*/best.safetensors")), run):
        said = json.loads(flctl("predict", named, data, *state, "--json").stdout)
        assert (said["own"], said["checkpoint"]) == (True, str(path))
    best_path = next(fleet.state.glob("runs/*/best.safetensors"))
    said = json.loads(flctl("predict", best_path, data, *state, "--global", "--json").stdout)
    assert (said["own"], said["checkpoint"]) == (False, str(best_path))
    assert str(path) in flctl("predict", best_path, data, *state).stdout
