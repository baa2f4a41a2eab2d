"""What the old project could do, row by row of its list: a fleet of real processes."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import real_fleet
from real_fleet import FLCTL, QUIET, RealFleet, beats, json_lines, wait_for

from flctl.transport.keypair import load_or_make

TRAINERS = ("pi-01", "pi-02")
TESTER = "pi-03"
SIZES = (1, 3, 5)
"""Of the data sets `night`, in 40 beats; a quarter is held out."""
LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) \w+\.py\(l:\d+\) - (?P<said>.+)"
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """A coordinator, two agents, of which the first is verbose, and one that only tests; each
    with two data sets."""
    fleet = RealFleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.start_coordinator()
        token = fleet.token("--uses", 4)
        more = {"pi-01": ["--verbose"], TESTER: ["--role", "evaluate"]}
        for n, name in enumerate((*TRAINERS, TESTER), start=1):
            night = beats(
                fleet.folder / f"night-{n}.npz", [30 + n], each=40 * SIZES[n - 1], seed=10 + n
            )
            if name == TESTER:  # a person says who measures
                keys = load_or_make(fleet.folder / name / "agent.key")
                real_fleet.flctl(
                    "keys", "add", name, keys.public, "--role", "evaluate", "--state", fleet.state
                )
            fleet.start_agent(name, "--data", f"night={night}", *more.get(name, []), token=token)
        fleet.until_ready(*TRAINERS, TESTER)
        yield fleet
    finally:
        fleet.close()


class Ran(NamedTuple):
    run: str
    committed: dict[str, Any]


@pytest.fixture(scope="module")
def night(fleet: RealFleet) -> Ran:
    """A run of one round on the data sets of that name."""
    done = fleet.train("--rounds", 1, "--epochs", 1, "--dataset", "night", "--evaluate", "agents")
    assert (done.returncode, done.stderr) == (0, "")
    events = json_lines(done.stdout)
    (committed,) = [event for event in events if event["event"] == "round"]
    return Ran(events[-1]["run"], committed)


def test_parity_01_an_agent_is_one_command(flctl, fleet):
    """The old way: run_websocket_server.py --host --port --id --verbose on each Pi. Here
    `flctl agent --coordinator --name --verbose`; nothing listens on the Pi."""
    command = fleet.processes["pi-01"].args
    assert command[command.index("--coordinator") + 1] == fleet.address
    status = json.loads(flctl("status", "--state", fleet.state, "--json").out)
    assert {agent["name"]: agent["state"] for agent in status} == dict.fromkeys(
        (*TRAINERS, TESTER), "ready"
    )
    for name, listening in (("pi-01", False), ("coordinator", True)):
        process = psutil.Process(fleet.processes[name].pid)
        connections = [c for p in (process, *process.children()) for c in p.net_connections("tcp")]
        assert connections
        assert any(found.status == psutil.CONN_LISTEN for found in connections) is listening


def test_parity_02_agents_are_found(flctl, fleet, tmp_path):
    """The old way: three hard-coded addresses. Here the inventory says who should be there, by
    whatever address, agents dial home, and `flctl discover` is the difference."""
    inventory = tmp_path / "inventory.ini"
    hosts = [f"{name} ansible_host=192.0.2.{n}" for n, name in enumerate((*TRAINERS, "pi-09"), 1)]
    inventory.write_text("\n".join(["[flctl_agents]", *hosts]))
    ask = ("discover", "--state", fleet.state, "--inventory", inventory)
    rows = json.loads(flctl(*ask, "--json").out)
    assert {row["name"]: row["state"] for row in rows if row["name"] != TESTER} == {
        "pi-01": "ready", "pi-02": "ready", "pi-09": "missing",
    }  # fmt: skip
    assert flctl(*ask, "--check").code == 1
    inventory.write_text("\n".join([*hosts[:2], f"{TESTER} ansible_host=192.0.2.3"]))
    assert flctl(*ask, "--check").code == 0


def test_parity_13_agents_train_on_data_of_their_own(fleet, night):
    """The old way, a wish in its to-do: data that the worker owns, by a key. Here each agent has
    several data sets of its own, and a run names one."""
    for name, agent in fleet.status().items():
        sizes = {found["name"]: found["examples"] for found in agent["datasets"]}
        assert sizes == {"default": 51, "night": {"pi-01": 26, "pi-02": 77, TESTER: 128}[name]}
    assert [night.committed["updates"][name]["examples"] for name in TRAINERS] == [26, 77]


def test_parity_17_an_agent_that_only_tests(fleet, night):
    """The old way: a worker `testing` that holds the test data. Here an agent with the role
    evaluate: it measures every round, and never trains."""
    found = night.committed
    assert found["participants"] == [*TRAINERS]
    assert (found["metrics"]["source"], set(found["metrics"]["beside"])) == ("agents", {TESTER})
    with np.load(fleet.folder / "night-3.npz") as arrays:
        targets = np.bincount(arrays["y"][arrays["split"] == 1], minlength=5)
    assert np.sum(found["metrics"]["counts"]["classes"], axis=1).tolist() == targets.tolist()
    assert "trained examples" not in fleet.log(TESTER)


def test_parity_19_the_log_says_what_happens(fleet, night):
    """The old way: time LEVEL file(l:line) - message, DEBUG with --verbose, and what the
    transport does. The same here, with round, agent and run to search for."""
    said: dict[str, dict[str, list[str]]] = {}
    sizes = dict(zip(TRAINERS, (26, 77), strict=True))
    for agent in TRAINERS:
        accepted = f"round=1 agent={agent} run={night.run} update accepted"
        wait_for(lambda log=agent, last=accepted: last in fleet.log(log), "its last line")
        lines = [LINE.fullmatch(line) for line in fleet.log(agent).splitlines()]
        assert all(lines)
        said[agent] = {"DEBUG": [], "INFO": []}
        for line in lines:
            said[agent][line["level"]].append(line["said"])
        told = "\n".join(said[agent]["INFO"])
        assert f"coordinator={fleet.address} connected" in told
        trained = f"round=1 agent={agent} run={night.run} trained examples={sizes[agent]} batches="
        assert re.search(re.escape(trained) + r"\d loss=\d\.\d+ ", told)
        assert accepted in told
    assert any(line.startswith("blob=") for line in said["pi-01"]["DEBUG"])
    assert any("HANDSHAKE_SUCCEEDED" in line for line in said["pi-01"]["DEBUG"])
    assert said["pi-02"]["DEBUG"] == []


def test_parity_24_an_agent_without_the_gpu_that_it_is_told_to_use(fleet, monkeypatch):
    """The old way: cuda when asked for and available. An agent that was started with --device
    cuda and has none says so at its start, and is not invited."""
    monkeypatch.setitem(real_fleet.QUIET, "CUDA_VISIBLE_DEVICES", "")
    fleet.start_agent("pi-04", "--device", "cuda", token=(fleet.folder / "pi-01.token").read_text())

    def complaint() -> str:
        told = fleet.status().get("pi-04", {})
        return "" if told.get("ready", True) else str(told["note"] or told["last_error"])

    wait_for(lambda: "torch finds no CUDA GPU here" in complaint(), "pi-04 says so")
    fleet.kill("pi-04", signal.SIGTERM)
    assert "device = cuda, but torch finds no CUDA GPU here" in fleet.log("pi-04")
    assert "Traceback" not in fleet.log("pi-04")


class Local(NamedTuple):
    """`flctl train --local 2`, ended by Ctrl-C after its first round."""

    events: list[dict[str, Any]]
    family: list[psutil.Process]
    alive: list[psutil.Process]
    code: int
    folder: Path
    """For its state and for what is temporary."""


@pytest.fixture(scope="module")
def local(ecg: Path, tmp_path_factory: pytest.TempPathFactory) -> Local:
    folder = tmp_path_factory.mktemp("local")
    process = subprocess.Popen(
        [*FLCTL, "train", "--local", "2", "--state", folder / "state", *SAME, "--data", ecg,
         "--rounds", "500", "--keep-rounds", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**QUIET, "TMPDIR": str(folder)},
        text=True,
    )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "round" and not family:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
        code = process.wait(30)
        _, alive = psutil.wait_procs(family, timeout=10)
    finally:
        process.kill()
        process.communicate()
        for left in family:
            if left.is_running():
                left.kill()
    return Local(events, family, alive, code, folder)


SAME = ("--task", "ecg", "--seed", "5", "--epochs", "20", "--evaluate", "agents")


def test_parity_03_the_same_without_sockets(train, ecg, local):
    """The old way: --use_virtual, to shorten testing. Here --virtual N, and --local N with
    processes and sockets: the same seed gives the same model, to the bit."""
    simulated = train("--virtual", 2, *SAME, "--data", ecg, "--rounds", 1)
    (one,) = simulated.named("round")
    real = next(event for event in local.events if event["event"] == "round")
    assert (one["round"], one["model"]) == (real["round"], real["model"])
    assert one["participants"] == real["participants"] == [*TRAINERS]
    assert one["metrics"] == real["metrics"]
    other = train("--virtual", 2, *SAME, "--seed", 6, "--data", ecg, "--rounds", 1)
    assert other.named("round")[0]["model"] != real["model"]


def test_parity_16_agents_evaluate(flctl, ecg, local, tmp_path):
    """The old way: evaluate() on a worker, with loss, correct, predictions, histograms of target
    and prediction. Here each agent's figures are those of its own data, and the confusion matrix
    of all has both histograms as its sums."""
    found = next(event for event in local.events if event["event"] == "round")["metrics"]
    assert (found["source"], set(found["beside"])) == ("agents", {*TRAINERS})
    shares = tmp_path / "shares"
    split = ("data", "split", ecg, "--agents", 2, "--seed", 5, "--out", shares)
    assert flctl(*split).code == 0
    (model,) = local.folder.glob("state/runs/*/rounds/0001/model.safetensors")
    targets, predictions = np.zeros(5, int), np.zeros(5, int)
    for name in TRAINERS:
        own = json.loads(flctl("evaluate", model, "--data", shares / name, "--json").out)
        assert found["beside"][name]["values"] == pytest.approx(own["values"], rel=1e-5)
        assert found["beside"][name]["examples"] == own["examples"]
        assert found["beside"][name]["counts"] == own["counts"]
        correct = found["beside"][name]["values"]["accuracy"] * own["examples"]
        assert correct == pytest.approx(np.trace(own["counts"]["classes"]))
        with np.load(shares / name / "beats.npz") as arrays:
            targets += np.bincount(arrays["y"][arrays["split"] == 1], minlength=5)
        predictions += np.sum(own["counts"]["classes"], axis=0)
    assert np.sum(found["counts"]["classes"], axis=1).tolist() == targets.tolist()
    assert np.sum(found["counts"]["classes"], axis=0).tolist() == predictions.tolist()


def test_parity_22_ctrl_c_ends_them_all(local):
    """The old way: a script that starts alice, bob, charlie and a testing worker, and Ctrl-C that
    stops them. Here --local N; no process and no key is left."""
    names = [process.pid for process in local.family]
    assert len(names) >= 5  # two agents, the worker of each, the coordinator's worker
    assert local.alive == []
    assert (local.code, local.events[-1]["event"]) == (128 + signal.SIGINT, "stopped")
    assert not list(local.folder.glob("*flctl-*"))


def test_parity_25_agents_train_at_once(fleet):
    """The old way: Pis trained one after another. Here in the same seconds, by their own logs."""
    done = fleet.train("--rounds", 1, "--epochs", 400)  # longer than one may begin after the other
    assert done.returncode == 0, done.stderr
    run = json_lines(done.stdout)[-1]["run"]

    def at(agent: str, what: str) -> str | None:
        found = re.search(rf"^(.{{23}}) .* agent={agent} run={run} {what}", fleet.log(agent), re.M)
        return found and found[1]

    begun = [wait_for(lambda name=name: at(name, "train begins"), name) for name in TRAINERS]
    ended = [wait_for(lambda name=name: at(name, "trained examples="), name) for name in TRAINERS]
    assert max(begun) < min(ended)
