"""Real processes over real sockets: what a user with a coordinator and agents sees."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_fleet import RealFleet, flctl, json_lines, wait_for
from safetensors.numpy import load_file


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """One coordinator and two agents that joined with a token, for all tests of this file."""
    fleet = RealFleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.start_coordinator()
        token = fleet.token("--ttl", "10m", "--uses", 5)
        for name in ("pi-01", "pi-02"):
            fleet.start_agent(name, token=token)
        fleet.until_ready("pi-01", "pi-02")
        yield fleet
    finally:
        fleet.close()


def settings(fleet: RealFleet, rounds: int, *more: object) -> list[object]:
    return [
        "--rounds", rounds, "--agents", "pi-01,pi-02", "--test-data", fleet.data,
        "--deadline", 60, *more,
    ]  # fmt: skip


def trainings(fleet: RealFleet, name: str, round_id: int, run: str) -> int:
    """How often an agent says that its update of a round was accepted."""
    return fleet.log(name).count(f"round={round_id} agent={name} run={run} update accepted")


def test_train_prints_a_line_for_each_round_and_ends_with_the_result(
    fleet: RealFleet, tmp_path: Path
):
    """--json: the rounds with metrics and participants, then the finished line, as promised."""
    model = tmp_path / "model.safetensors"
    done = fleet.train(*settings(fleet, 2), "--save-model", model)
    assert done.returncode == 0, done.stderr
    events = json_lines(done.stdout)
    rounds = [e for e in events if e["event"] == "round"]
    assert [r["round"] for r in rounds] == [1, 2]
    assert rounds[0]["participants"] == ["pi-01", "pi-02"]
    assert set(rounds[0]["metrics"]["values"]) >= {"loss", "accuracy", "macro_f1"}
    last = events[-1]
    assert last["event"] == "finished" and last["rounds"] == 2
    assert last["checkpoint"] == str(model) and model.exists()
    assert last["metrics"]["source"] == "coordinator"
    evaluated = flctl("evaluate", model, "--task", "ecg", "--data", fleet.data, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["values"]["accuracy"] == pytest.approx(
        last["metrics"]["values"]["accuracy"]
    )


def test_status_discover_runs_and_keys_say_what_there_is(fleet: RealFleet, tmp_path: Path):
    """Each of the looking commands, as JSON, with the keys that scripts rely on."""
    fleet.until_ready("pi-01", "pi-02")  # the last run has just ended
    status = fleet.status()
    assert set(status) == {"pi-01", "pi-02"}
    assert status["pi-01"]["examples"] == 51 and status["pi-01"]["version"]
    inventory = tmp_path / "inventory.ini"
    inventory.write_text("[flctl_agents]\npi-01 ansible_host=10.0.0.1\npi-03\n")
    found = flctl("discover", "--state", fleet.state, "--inventory", inventory, "--json")
    states = {row["name"]: row["state"] for row in json.loads(found.stdout)}
    assert (states["pi-01"], states["pi-03"]) == ("ready", "missing")
    fleet.train(*settings(fleet, 1))
    runs = json.loads(flctl("runs", "list", "--state", fleet.state, "--json").stdout)
    assert {"run", "state", "round", "rounds"} <= set(runs[0])
    keys = json.loads(flctl("keys", "list", "--state", fleet.state, "--json").stdout)
    assert [k["name"] for k in keys["keys"]] == ["pi-01", "pi-02"]
    assert keys["server_key"].startswith("flk_")
    shown = flctl("runs", "show", runs[0]["run"], "--state", fleet.state)
    assert shown.returncode == 0 and "pi-01" in shown.stdout


def test_kill_9_of_the_coordinator_in_the_middle_of_a_round(fleet: RealFleet):
    """The same round continues by itself, no agent trains it twice, and the bytes are the same."""
    options = settings(fleet, 4, "--seed", 7, "--epochs", 40)
    undisturbed = json_lines(fleet.train(*options).stdout)
    expected = [e["model"] for e in undisturbed if e["event"] == "round"]
    fleet.start_training(*options)
    wait_for(lambda: fleet.named("round"), "the first round")
    fleet.kill("coordinator")
    fleet.start_coordinator()
    wait_for(lambda: fleet.processes["train"].poll() is not None, "the end of the run")
    events = fleet.events()
    assert events[-1]["event"] == "finished", events[-3:]
    assert [e["model"] for e in fleet.named("round")] == expected
    run = events[-1]["run"]
    for name in ("pi-01", "pi-02"):  # the last line may come after the end of the run
        wait_for(lambda name=name: trainings(fleet, name, 4, run), f"the last round of {name}")
        assert [trainings(fleet, name, r, run) for r in (1, 2, 3, 4)] == [1, 1, 1, 1]
    replayed = flctl(
        "runs", "replay", run, "--state", fleet.state,
        "--data", f"pi-01={fleet.folder / 'pi-01.npz'}",
        "--data", f"pi-02={fleet.folder / 'pi-02.npz'}",
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_a_coordinator_that_stays_away_ends_the_watching_not_the_run(fleet: RealFleet):
    """After 20 s, with the command that watches again when it is back."""
    fleet.start_training("--rounds", 2, "--agents", "pi-01,pi-09", "--wait", "5m")
    wait_for(lambda: fleet.named("waiting"), "the run waits")
    run = fleet.named("begun")[0]["run"]
    fleet.kill("coordinator")
    assert fleet.processes["train"].wait(60) == 1
    said = fleet.events()[-1]["message"]
    assert "the run continues when it is back" in said
    assert f"train --resume {run} --state {fleet.state}" in said
    fleet.start_coordinator()
    assert flctl("runs", "stop", run, "--state", fleet.state).returncode == 0


def test_kill_9_of_a_worker_is_told_at_once_and_tried_again(fleet: RealFleet):
    """The agent reports it, starts another worker, and the round has its update."""
    fleet.start_training(*settings(fleet, 1, "--epochs", 3000, "--deadline", 120))
    worker = wait_for(lambda: fleet.named("progress") or fleet.worker_of("pi-01"), "pi-01's worker")
    wait_for(lambda: fleet.status()["pi-01"]["state"] == "training", "pi-01 training")
    worker = fleet.worker_of("pi-01")
    assert worker is not None
    worker.kill()
    (failed,) = wait_for(lambda: fleet.named("agent-failed"), "the report", 5)
    assert failed["agent"] == "pi-01" and failed["retrying"]
    assert "signal 9" in failed["message"]
    fleet.kill("train", signal.SIGINT)
    run = fleet.events()[0]["run"]
    assert flctl("runs", "stop", run, "--state", fleet.state).returncode == 0


def test_kill_9_of_an_agent_closes_the_round_with_the_quorum(fleet: RealFleet):
    """Its connection tells at once; it is lost in the status, and back when it is started."""
    fleet.start_training(*settings(fleet, 1, "--epochs", 1500, "--quorum", 0.5, "--deadline", 200))
    wait_for(lambda: fleet.status()["pi-02"]["state"] == "training", "pi-02 training")
    fleet.kill("pi-02")
    wait_for(lambda: fleet.processes["train"].poll() is not None, "the end of the run")
    (committed,) = fleet.named("round")
    assert committed["participants"] == ["pi-01"]
    assert fleet.status()["pi-02"]["state"] == "lost"
    fleet.start_agent("pi-02")
    fleet.until_ready("pi-02")


def test_ctrl_c_only_stops_the_watching(fleet: RealFleet):
    """The run belongs to the coordinator: it goes on and finishes."""
    # Long enough that it has not ended by itself when Ctrl-C comes.
    process = fleet.start_training(*settings(fleet, 3, "--epochs", 400))
    run = wait_for(lambda: fleet.named("round"), "a round") and fleet.events()[0]["run"]
    fleet.kill("train", signal.SIGINT)
    assert process.returncode == 0

    def finished() -> bool:
        runs = json.loads(flctl("runs", "list", "--state", fleet.state, "--json").stdout)
        return next(r for r in runs if r["run"] == run)["state"] == "finished"

    wait_for(finished, "the run to finish by itself")


def test_who_is_not_let_in_is_told_what_to_do(fleet: RealFleet, tmp_path: Path):
    """An unknown key, a wrong server key, a wrong token: each one line, and how to mend it."""
    fleet.start_agent("pi-07")
    wait_for(lambda: "flctl keys add" in fleet.log("pi-07"), "the unknown key's line")
    waiting = json.loads(flctl("keys", "list", "--state", fleet.state, "--json").stdout)["waiting"]
    assert len(waiting) == 1
    fleet.kill("pi-07", signal.SIGTERM)
    right, fleet.server_key = fleet.server_key, "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    try:
        fleet.start_agent("pi-08")
        wait_for(lambda: "server key" in fleet.log("pi-08"), "the wrong server key's line")
        fleet.kill("pi-08", signal.SIGTERM)
    finally:
        fleet.server_key = right
    fleet.start_agent("pi-09", token="flt_" + "0" * 40)
    wait_for(lambda: fleet.processes["pi-09"].poll() is not None, "pi-09 to give up")
    assert fleet.processes.pop("pi-09").returncode == 1
    assert "token" in fleet.log("pi-09")
    assert "Traceback" not in fleet.log("pi-07") + fleet.log("pi-08") + fleet.log("pi-09")


def test_a_far_operator_steers_with_a_key_of_its_own(fleet: RealFleet, tmp_path: Path):
    """flctl connect with an admin key: status and train work; a read key may only look."""
    laptop = tmp_path / "laptop"
    key_file = tmp_path / "admin.key"
    made = flctl("keys", "new", key_file)
    assert made.returncode == 0, made.stderr
    public = key_file.with_suffix(".pub").read_text().strip()
    add = ["keys", "add", "--state", fleet.state, "--role"]
    assert flctl(*add, "read", "laptop", "--", public).returncode == 0
    connected = flctl(
        "connect", fleet.address, "--state", laptop, f"--server-key={fleet.server_key}",
        "--key", key_file,
    )  # fmt: skip
    assert connected.returncode == 0, connected.stderr
    status = flctl("status", "--state", laptop, "--json")
    assert [a["name"] for a in json.loads(status.stdout)] == ["pi-01", "pi-02"]
    train = ["train", "--state", laptop, *settings(fleet, 1), "--task", "ecg", "--json"]
    refused = flctl(*train)
    assert refused.returncode == 1 and "admin" in refused.stderr
    assert flctl("keys", "revoke", "laptop", "--state", fleet.state).returncode == 0
    assert flctl(*add, "admin", "laptop", "--", public).returncode == 0
    model = tmp_path / "far.safetensors"
    done = flctl(*train, "--save-model", model)
    assert done.returncode == 0, done.stderr
    assert model.exists()


def test_what_a_run_leaves_can_be_had_with_a_key_that_may_read(fleet: RealFleet, tmp_path: Path):
    """Its model of any round, its events, its picture: beside the coordinator and from afar."""
    done = fleet.train(*settings(fleet, 2), "--tensorboard", tmp_path / "live")
    run = json_lines(done.stdout)[-1]["run"]
    key, laptop = tmp_path / "me.key", tmp_path / "laptop"
    assert flctl("keys", "new", key).returncode == 0
    public = key.with_suffix(".pub").read_text().strip()
    add = ["keys", "add", "--state", fleet.state, "--role", "read", "reader", "--", public]
    assert flctl(*add).returncode == 0
    server = f"--server-key={fleet.server_key}"
    connect = ["connect", fleet.address, "--state", laptop, server, "--key", key]
    assert flctl(*connect).returncode == 0
    for state in (fleet.state, laptop):
        out = tmp_path / f"from-{state.name}"
        out.mkdir()
        for command in (
            ("export", run, "--format", "safetensors", "--which", 1, "--out", out / "model"),
            ("export", run, "--format", "tensorboard", "--out", out / "events"),
            ("plot", run, "--out", out / "run.png"),
        ):
            done = flctl("runs", *command, "--state", state)
            assert (done.returncode, done.stderr) == (0, "")
        model = fleet.state / "runs" / run / "rounds" / "0001" / "model.safetensors"
        ours, theirs = load_file(out / "model"), load_file(model)  # its metadata say more
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in theirs)
        (live,), (events,) = (tmp_path / "live" / run).iterdir(), (out / "events" / run).iterdir()
        assert events.stat().st_size == live.stat().st_size  # the same points
