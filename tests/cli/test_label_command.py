"""`flctl label` and --where, asked of a coordinator that runs in this process."""

import json
import threading
from types import SimpleNamespace

import pytest

from flctl.cli import completion
from flctl.coordinator.main import make_coordinator
from flctl.files import Lock
from flctl.fleet import playbooks
from flctl.fleet.console import RemoteRuns
from flctl.transport.addresses import LOCK
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring


@pytest.fixture
def state(tmp_path):
    """A coordinator with three enrolled agents that have not come yet."""
    state = tmp_path / "state"
    keyring = Keyring(state / "keys")
    for name in ("pi-01", "pi-02", "pi-03"):
        keyring.add(name, KeyPair.make().public, "agent")
    lock = Lock(state / LOCK, "busy")
    coordinator, _ = make_coordinator(state, keyring, "127.0.0.1:0", state)
    thread = threading.Thread(target=coordinator.run)
    thread.start()
    yield state
    coordinator.stop()
    thread.join()
    coordinator.close()
    lock.release()


def shown(flctl, *words):
    done = flctl(*words, "--json")
    assert done.code == 0, done.err
    return {agent["name"]: agent["labels"] for agent in json.loads(done.out)}


def test_labels_are_set_shown_chosen_by_and_removed(flctl, state):
    """In one command for several agents; the audit file says who, and what it was afterwards."""
    assert "labels" not in flctl("status").out
    done = flctl("label", "pi-01", "pi-02", "site=ward-3", "model=pi4")
    assert (done.code, done.out.splitlines()) == (
        0, ["agent  labels", "pi-01  model=pi4 site=ward-3", "pi-02  model=pi4 site=ward-3"],
    )  # fmt: skip
    ward = {"model": "pi4", "site": "ward-3"}
    assert shown(flctl, "status") == {"pi-01": ward, "pi-02": ward, "pi-03": {}}
    assert "model=pi4 site=ward-3" in flctl("status").out
    assert shown(flctl, "label", "pi-02", "model-", "--remove", "gone") == {
        "pi-02": {"site": "ward-3"}
    }
    assert shown(flctl, "label", "--where", "site", "--where", "model!=pi4") == {
        "pi-02": {"site": "ward-3"}
    }
    assert set(shown(flctl, "status", "--where", "site=ward-3,model=pi4")) == {"pi-01"}
    assert shown(flctl, "label", "--where", "site", "new=yes").keys() == {"pi-01", "pi-02"}
    assert shown(flctl, "label", "pi-01", "--reset") == {"pi-01": {}}
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]
    begun = next(line for line in lines if line["action"] == "label")
    assert begun["args"] == {
        "name": "pi-01", "labels": {"site": "ward-3", "model": "pi4"}, "reset": False,
    }  # fmt: skip
    assert "label" in flctl("audit").out and "site=ward-3" in flctl("audit").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("label", "pi-01", "site=ward 3"), "label 'site=ward 3': write KEY=VALUE, or KEY- to"),
        (("label", "site=ward-3"), "name the agents or choose them with --where"),
        (("label", "pi-01", "--where", "site"), "name the agents or choose them with --where"),
        (("label", "pi-99", "site=x"), "no agent is enrolled as pi-99; see flctl status"),
        (("label", "pi-99"), "no agent is enrolled as pi-99; see flctl status"),
        (("status", "--where", "site=a b"), "--where 'site=a b': write site=ward-3, site!="),
        (("status", "--where", "site"), "no agent is chosen by site; no agent has a label"),
        (("cordon", "pi-01", "pi-99"), "no agent is enrolled as pi-99; see flctl status"),
        (("cordon",), "name the agents or choose them with --where"),
        (("uncordon", "--where", "site=x"), "no agent is chosen by site=x; no agent has a label"),
        (("train", "--task", "ecg", "--where", "a=b", "--agents", "pi-01"), "agents and where"),
        (("train", "--task", "ecg", "--where", "a=b", "--local", 2), "local agents have no labels"),
        (("train", "--task", "ecg", "--where", "a==b"), "--where 'a==b': write site=ward-3"),
        (("agent", "--coordinator", "x:1", "--server-key", "k" * 40, "--label", "a"),
         "--label 'a': write KEY=VALUE, each of up to 63 letters"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(flctl, state, words, says):
    done = flctl(*words)
    assert done.code == 2 and says in done.complaint


def test_of_several_agents_nothing_changes_when_one_is_not_enrolled(flctl, state):
    assert flctl("label", "pi-01", "pi-99", "site=x").code == 2
    assert shown(flctl, "label", "pi-01") == {"pi-01": {}}


def test_of_several_agents_one_of_which_is_unknown_none_is_cordoned(flctl, state):
    assert flctl("cordon", "pi-01", "pi-99").code == 2
    assert not any(a["cordoned"] for a in json.loads(flctl("status", "--json").out))


def test_cordon_by_labels(flctl, state):
    flctl("label", "pi-01", "pi-03", "site=ward-3")
    assert flctl("cordon", "--where", "site=ward-3").code == 0
    held = {a["name"] for a in json.loads(flctl("status", "--json").out) if a["cordoned"]}
    assert held == {"pi-01", "pi-03"}
    assert flctl("uncordon", "--where", "site!=ward-4").code == 0
    assert not any(a["cordoned"] for a in json.loads(flctl("status", "--json").out))


def test_a_playbook_is_limited_to_the_hosts_of_the_agents(flctl, state, tmp_path, monkeypatch):
    """What the inventory calls them; agents that it does not name are left out."""
    called = []
    monkeypatch.setattr(playbooks, "run_playbook", lambda *args: called.append(args))
    inventory = tmp_path / "fleet.json"
    hosts = {"one": {"flctl_name": "pi-01"}, "two": {"flctl_name": "pi-02"}}
    inventory.write_text(json.dumps(
        {"_meta": {"hostvars": hosts}, "flctl_agents": {"hosts": ["one", "two"]}}
    ))  # fmt: skip
    flctl("label", "pi-01", "pi-03", "site=ward-3")
    flctl("label", "pi-03", "only=here")
    assert flctl("upgrade", "-i", inventory, "--where", "site=ward-3").code == 0
    assert called[0][3] == ["--limit", "one"]
    done = flctl("upgrade", "-i", inventory, "--where", "only")
    assert (done.code, done.complaint) == (
        2, f"{inventory}: names none of the chosen agents: pi-03",
    )  # fmt: skip
    both = flctl("upgrade", "-i", inventory, "--where", "site", "--limit", "one")
    assert both.code == 2 and "either --limit or --where" in both.complaint


def test_an_older_coordinator_has_no_labels(flctl, state, monkeypatch):
    """Status works as before, and what needs labels says that there are none."""
    status = RemoteRuns.ask

    def older(self, what, *args, **more):
        body = status(self, what, *args, **more)
        for agent in body["agents"]:
            del agent["labels"], agent["own_labels"]
        return body

    monkeypatch.setattr(RemoteRuns, "ask", older)
    assert flctl("status").code == 0
    assert "no agent has a label" in flctl("status", "--where", "site=x").complaint


def test_keys_of_labels_are_completed(state, flctl, monkeypatch):
    flctl("label", "pi-01", "site=ward-3", "model=pi4")
    monkeypatch.setattr(completion, "BUDGET_S", 20.0)

    context = SimpleNamespace(params={"state": str(state)})
    assert completion.labels(context, "") == ["model", "site"]
    assert completion.labels(context, "s") == ["site"]
