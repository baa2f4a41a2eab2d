"""Real processes: agents chosen by labels, and the log of one of them read from afar."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_fleet import WITHIN_S, RealFleet, flctl, json_lines, wait_for


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """A coordinator, two agents of ward 3, and one of ward 4 whose owner keeps its log."""
    fleet = RealFleet(tmp_path_factory.mktemp("wards"))
    try:
        fleet.start_coordinator()
        token = fleet.token("--ttl", "10m", "--uses", 3)
        for name in ("pi-01", "pi-02"):
            fleet.start_agent(name, "--label", "site=ward-3", token=token)
        own = ("--label", "site=ward-4", "--label", "model=pi4", "--no-share-log")
        fleet.start_agent("pi-03", *own, token=token)
        fleet.token_text = token
        fleet.until_ready("pi-01", "pi-02", "pi-03")
        yield fleet
    finally:
        fleet.close()


def logs(fleet: RealFleet, agent: str, *more: object) -> list[str]:
    done = flctl("logs", agent, "--state", fleet.state, "--json", *more)
    assert done.returncode == 0, done.stderr
    return [line["text"] for line in json.loads(done.stdout)]


def complaint(fleet: RealFleet, agent: str, *more: object) -> str:
    done = flctl("logs", agent, "--state", fleet.state, *more)
    assert done.returncode != 0 and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_a_run_by_labels_and_its_replay_when_they_are_others(fleet: RealFleet):
    """It asks the agents of the ward; computed again, it has the same bytes whatever labels say."""
    shown = {name: agent["labels"] for name, agent in fleet.status().items()}
    assert shown["pi-01"] == {"site": "ward-3"} and shown["pi-03"]["site"] == "ward-4"
    done = fleet.train("--rounds", 2, "--where", "site=ward-3", "--test-data", fleet.data)
    assert done.returncode == 0, done.stderr
    rounds = [e for e in json_lines(done.stdout) if e["event"] == "round"]
    assert [r["participants"] for r in rounds] == [["pi-01", "pi-02"]] * 2
    run = json_lines(done.stdout)[-1]["run"]
    moved = flctl("label", "pi-01", "site=ward-4", "--state", fleet.state)
    assert moved.returncode == 0 and "site=ward-4" in moved.stdout
    data = (word for n in ("pi-01", "pi-02") for word in ("--data", f"{n}={fleet.folder / n}.npz"))
    again = flctl("runs", "replay", run, "--state", fleet.state, "--json", *data)
    assert again.returncode == 0, again.stderr + again.stdout
    done = fleet.train("--rounds", 1, "--where", "site!=ward-3", "--test-data", fleet.data)
    (only,) = [e for e in json_lines(done.stdout) if e["event"] == "round"]
    assert only["participants"] == ["pi-01", "pi-03"]
    flctl("label", "pi-01", "--reset", "--state", fleet.state)
    none = fleet.train("--rounds", 1, "--where", "site=ward-9")
    assert none.returncode == 2
    assert "the labels are model=pi4, site=ward-3, site=ward-4" in none.stderr


def test_the_log_of_an_agent_and_of_one_whose_owner_keeps_it(fleet: RealFleet):
    found = logs(fleet, "pi-01")
    assert any("welcome coordinator_version=" in text for text in found)
    assert len(logs(fleet, "pi-01", "--lines", 2)) == 2
    assert logs(fleet, "pi-01", "--since", "0s") == []
    everything = " ".join(found)
    secret = (fleet.folder / "pi-01" / "agent.key").read_text()
    assert fleet.token_text not in everything
    assert not any(word in everything for word in secret.split() if len(word) == 40)
    assert "the owner of pi-03 does not share its log" in complaint(fleet, "pi-03")
    assert not (fleet.folder / "pi-03" / "log.json").exists()
    text = flctl("logs", "pi-01", "--state", fleet.state, "-n", 1).stdout
    assert text[:4].isdigit() and text[19] == "Z" and " INFO " in text
    assert "no agent is enrolled as pi-99" in complaint(fleet, "pi-99")


def test_following_goes_on_over_restarts_of_agent_and_coordinator(fleet: RealFleet):
    """An orderly restart loses no line, after a kill the new process's come; while one is away a
    line on stderr says so, once."""
    log = fleet.folder / "follow.log"
    fleet.start("follow", log, "logs", "pi-02", "--state", fleet.state, "--follow", "--json")

    def has(text: str, times: int = 1) -> None:
        wait_for(lambda: log.read_text().count(text) >= times, f"{text!r} {times} times in {log}")

    has("welcome coordinator_version=")
    fleet.kill("pi-02", signal.SIGTERM)
    fleet.start_agent("pi-02", "--label", "site=ward-3")
    has("agent=pi-02 stops")
    has("welcome coordinator_version=", 2)
    fleet.kill("pi-02")
    has("waiting for it")
    fleet.start_agent("pi-02", "--label", "site=ward-3")
    has("welcome coordinator_version=", 3)
    has("is back")
    fleet.kill("coordinator")
    fleet.start_coordinator()
    has("welcome coordinator_version=", 4)
    fleet.kill("follow", signal.SIGINT)
    text = log.read_text()
    lines = [json.dumps(line, sort_keys=True) for line in json_lines(text)]
    assert len(lines) == len(set(lines))
    assert "Traceback" not in text and text.count("is not connected") <= 3
    fleet.until_ready("pi-01", "pi-02", "pi-03")


def test_an_agent_that_is_away_and_one_that_hangs(fleet: RealFleet, request: pytest.FixtureRequest):
    """One line each; the one that hangs is waited for ten seconds."""
    # Asked from this process, which need not start first: after 20 s its connection is given up.
    here = request.getfixturevalue("flctl")
    ask = ("logs", "pi-02", "--state", fleet.state)
    assert here(*ask).code == 0
    fleet.processes["pi-02"].send_signal(signal.SIGSTOP)
    done = here(*ask)
    fleet.processes["pi-02"].send_signal(signal.SIGCONT)
    assert "no answer from pi-02 in 10 s" in done.complaint and done.code and not done.out
    fleet.kill("pi-02", signal.SIGTERM)
    assert "pi-02 is not connected (stopped, last seen" in complaint(fleet, "pi-02")
    assert "pi-02 is not connected" in complaint(fleet, "pi-02", "--follow")


def test_the_log_is_read_while_the_agent_trains(fleet: RealFleet, tmp_path: Path):
    """Its worker is busy; its supervisor answers. A far operator needs an admin key."""
    for role, code in (("read", 1), ("admin", 0)):
        key, far = tmp_path / f"{role}.key", tmp_path / role
        public = flctl("keys", "new", key).stdout.split()[-1]
        flctl("keys", "add", role, public, "--role", role, "--state", fleet.state)
        flctl("connect", fleet.address, f"--server-key={fleet.server_key}", "--key", key,
              "--state", far)  # fmt: skip
        done = flctl("logs", "pi-01", "--state", far)
        assert done.returncode == code, done.stderr
        assert ("needs an admin key" in done.stderr) is bool(code)
    training = fleet.start_training(  # for longer than it takes to ask
        "--rounds", 1, "--epochs", 1000, "--agents", "pi-01", "--test-data", fleet.data
    )
    wait_for(lambda: fleet.status()["pi-01"]["state"] == "training", "pi-01 trains")
    found = logs(fleet, "pi-01", "--since", "5m")
    assert any("train begins" in text for text in found)
    assert training.wait(WITHIN_S) == 0
