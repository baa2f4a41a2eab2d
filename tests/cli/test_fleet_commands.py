"""What an operator is told by a real coordinator that runs in this process."""

import json
import os
import socket
import threading
import time

import pytest
from real_fleet import WITHIN_S

from flctl.coordinator.main import make_coordinator
from flctl.core.stream import AgentsAwaited
from flctl.errors import AccessError
from flctl.files import Lock
from flctl.fleet import connecting, connection
from flctl.fleet.context import load_context
from flctl.transport.addresses import LOCK
from flctl.transport.keypair import KeyPair, load_or_make, public_key, shown
from flctl.transport.keys import Keyring
from flctl.transport.link import ZeroMqLink
from flctl.wire import framing
from flctl.wire.messages import Device, Hello, ServerKeys, Welcome


@pytest.fixture
def fleet(tmp_path):
    """A coordinator without agents; its address and keys."""
    state = tmp_path / "state"
    keyring = Keyring(state / "keys")
    lock = Lock(state / LOCK, "busy")
    coordinator, endpoint = make_coordinator(state, keyring, "127.0.0.1:0", state)
    thread = threading.Thread(target=coordinator.run)
    thread.start()
    yield endpoint, keyring
    coordinator.stop()
    thread.join()
    coordinator.close()
    lock.release()


@pytest.fixture
def connect(flctl, fleet, tmp_path):
    """Calls `flctl connect` with a key that is enrolled in a role; far is the folder to use it."""
    endpoint, keyring = fleet

    def call(role):
        pair = load_or_make(tmp_path / "own.key")
        keyring.add("me", pair.public, role)
        done = flctl("connect", endpoint, f"--server-key={keyring.server.public}",
                     "--key", tmp_path / "own.key", "--state", tmp_path / "far")  # fmt: skip
        return pair.public, done

    return call


def test_discover_of_an_empty_fleet(flctl, fleet):
    """Nobody expected is no success; without --check it is only said."""
    done = flctl("discover", "--check")
    assert done.code == 1
    assert "no agent is expected and none is connected" in done.out
    assert flctl("discover").code == 0


def test_discover_of_a_broken_inventory(flctl, fleet, tmp_path):
    """It names the file and Ansible's reason, and no agent is to be revoked."""
    fleet[1].add("pi-01", "0" * 40, "agent")
    file = tmp_path / "hosts"
    file.write_text("[flctl_agents\npi-01\n")
    done = flctl("discover", "--check", "--inventory", file)
    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(f"{file}: Ansible cannot read this inventory: ")


def test_connect_with_the_key_of_an_agent(connect):
    """It is told what the key is, at once."""
    _, done = connect("agent")
    assert done.code == 1
    assert done.complaint.startswith("this key is that of the agent me; operators need")
    assert "read or admin" in done.complaint


def test_a_key_that_was_revoked(connect, flctl, fleet, tmp_path):
    """The key is shown, with what may be wrong with it."""
    key, done = connect("admin")
    assert done.code == 0, done.err
    fleet[1].revoke("me")
    done = flctl("status", "--state", tmp_path / "far")
    assert done.code == 1
    assert f"rejects this key ({shown(key)}): it is not enrolled" in done.complaint
    assert "was revoked" in done.complaint and key not in done.complaint
    assert f"flctl keys add NAME {shown(key)} --role admin" in done.complaint


def test_a_key_that_is_not_enrolled_while_a_token_is_open(flctl, fleet, tmp_path):
    """A guest may ask to join then; an operator reads only what an operator needs."""
    endpoint, keyring = fleet
    keyring.new_token(600.0, 1)
    shown_key = flctl("keys", "new", tmp_path / "own.key").out.strip()
    done = flctl("connect", endpoint, f"--server-key={keyring.server.public}",
                 "--key", tmp_path / "own.key", "--state", tmp_path / "far")  # fmt: skip
    assert (done.code, done.complaint) == (
        1,
        f"the coordinator at {endpoint} rejects this key ({shown_key}): this key is not enrolled; "
        f"on the coordinator run: flctl keys add NAME {shown_key} --role admin",
    )


def test_a_far_operator_lists_and_closes_tokens(connect, flctl, fleet, tmp_path):
    """Its name stands there as that of who made it; discover warns."""
    connect("admin")
    far = ("--state", tmp_path / "far")
    flctl("keys", "token", "--uses", "2", "--role", "evaluate", *far)
    (token,) = json.loads(flctl("keys", "tokens", "--json", *far).out)
    assert (token["by"], token["uses_left"], token["role"]) == ("me", 2, "evaluate")
    fleet[1].add("pi-01", "0" * 40, "agent")
    assert "1 join token open, 2 uses left" in flctl("discover").out
    assert "1 join token open, 2 uses left" in flctl("status", *far).out
    done = flctl("keys", "invite", *far)
    assert done.code == 2 and "this coordinator shares no folder with agents" in done.complaint
    assert token["id"] in flctl("keys", "tokens", "--close", token["id"], *far).out
    assert fleet[1].open_tokens() == []


class Agent:
    """As much of one as a coordinator needs to hear, over a real connection."""

    def __init__(self, endpoint: str, keys: KeyPair, *server_keys: str) -> None:
        self.link = ZeroMqLink(endpoint, keys, server_keys, uniform=lambda low, _: low)
        self.decode = framing.to_agent()

    def hears(self, kind: type, within_s: float = WITHIN_S):
        """The next message of this kind."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            self.link.wait(0.1)
            for frames in self.link.receive():
                _, message, _ = self.decode(frames)
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} in {within_s} s")

    def says_hello(self, *stored: str) -> None:
        device = Device(kind="Pi", arch="a", cores=4, memory_bytes=1)
        hello = Hello(
            session="a" * 32, version="1", role="train", device=device, tasks={},
            server_keys=stored,
        )  # fmt: skip
        until = time.monotonic() + WITHIN_S
        while not self.link.send(framing.encode(hello)):
            assert time.monotonic() < until, "not connected"
            self.link.wait(0.1)


def test_the_servers_key_is_replaced_under_agents_and_operators(connect, flctl, fleet, tmp_path):
    """Both learn the new one over their connections, and go on with it alone."""
    endpoint, keyring = fleet
    old, own = keyring.server.public, KeyPair.make()
    keyring.add("pi-01", own.public, "agent")
    connect("admin")
    far = ("--state", tmp_path / "far")
    agent = Agent(endpoint, own, old)
    agent.says_hello()
    agent.hears(Welcome)
    done = flctl("keys", "rotate-server", "--overlap", "2h", "--json", *far)
    found = json.loads(done.out)
    new = public_key(found["rotation"]["new_key"], "new")
    assert (found["server_key"], found["rotation"]["missing"]) == (shown(old), ["pi-01"])
    assert agent.hears(ServerKeys).keys == (new, old)
    done = flctl("status", *far)
    words = "0 agents with the new one, not yet pi-01; the old one is valid for"
    assert words in done.out, done.err
    saved = json.loads((tmp_path / "far" / "contexts" / "default.json").read_text())
    assert (saved["server_key"], saved["old_server_key"]) == (new, old)
    done = flctl("keys", "rotate-server", "--finish", *far)
    assert done.code == 2 and "pi-01 would be locked out" in done.complaint
    agent.says_hello(new, old)
    agent.hears(Welcome)
    assert "1 agent with the new one; the old one" in flctl("status", *far).out
    done = flctl("keys", "rotate-server", "--finish", *far)
    assert done.code == 0, done.err
    assert f"server key  {shown(new)}, and no other one is valid" in done.out
    assert agent.hears(ServerKeys).keys == (new,)
    agent.link.use_server_keys((new,))
    agent.says_hello(new)
    agent.hears(Welcome)
    assert flctl("status", *far).code == 0
    saved = json.loads((tmp_path / "far" / "contexts" / "default.json").read_text())
    assert saved["server_key"] == new and "old_server_key" not in saved
    assert json.loads(flctl("keys", "list", "--json").out)["server_key"] == shown(new)
    agent.link.close()


def test_a_rotation_without_a_coordinator(flctl, tmp_path):
    """It begins in the folder; no agent is forgotten by mistake."""
    own = ("--state", tmp_path / "own")
    flctl("keys", "add", "pi-01", "0" * 40, *own)
    old = json.loads(flctl("keys", "list", "--json", *own).out)["server_key"]
    assert flctl("keys", "rotate-server", *own).code == 0
    done = flctl("keys", "rotate-server", *own)
    assert done.code == 2 and "is already being replaced" in done.complaint
    done = flctl("keys", "rotate-server", "--finish", *own)
    assert done.code == 2 and "start it, or add --anyway" in done.complaint
    assert old in flctl("keys", "rotate-server", "--abort", *own).out
    flctl("keys", "rotate-server", *own)
    assert old not in flctl("keys", "rotate-server", "--finish", "--anyway", *own).out
    done = flctl("keys", "rotate-server", "--overlap", "5s", *own)
    assert done.code == 2 and "--overlap: from 1m to 90d" in done.complaint


def test_a_read_key_lists_tokens_and_closes_none(connect, flctl, fleet, tmp_path):
    connect("read")
    far = ("--state", tmp_path / "far")
    fleet[1].new_token(60.0, 1)
    (token,) = json.loads(flctl("keys", "tokens", "--json", *far).out)
    done = flctl("keys", "tokens", "--close", token["id"], *far)
    assert done.code == 1 and "needs an admin key" in done.complaint


def test_a_key_that_is_revoked_while_it_is_connected(fleet, connect, tmp_path):
    """Then the coordinator itself says so."""
    connect("admin")
    context = load_context(tmp_path / "far")
    with connecting.remote(context) as far:
        assert far.status()["agents"] == []
        fleet[1].revoke("me")
        with pytest.raises(AccessError, match="this key was revoked"):
            far.status()


def test_a_coordinator_whose_socket_was_deleted(flctl, fleet, tmp_path, monkeypatch):
    """It runs: to wake it would not help."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.3)
    control = tmp_path / "state" / "control.sock"
    control.unlink()
    done = flctl("status")
    assert done.code == 1 and f"but its socket {control} is missing" in done.complaint
    assert f"end it (kill {os.getpid()}) and start it again (flctl coord" in done.complaint


@pytest.mark.parametrize("command", [("status",), ("train", "--task", "ecg")])
def test_a_coordinator_that_does_not_answer(flctl, tmp_path, monkeypatch, command):
    """As one that is suspended: whose process holds the folder, and not to start another."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.3)
    state = tmp_path / "state"
    state.mkdir()
    lock = Lock(state / LOCK, "busy")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(state / "control.sock"))
        mute.listen()
        done = flctl(*command)
    lock.release()
    assert done.code == 1
    assert done.complaint.startswith(f"process {os.getpid()} holds {state} but has not answered")
    assert f"flctl coordinator --state {state}" in done.complaint


def test_a_run_that_waits_for_its_agents(flctl, fleet, tmp_path):
    """Both `status` and whoever begins to watch are told for whom."""
    fleet[1].add("pi-01", KeyPair.make().public, "agent")
    with connecting.connect_coordinator(tmp_path / "state") as operator:
        run = operator.start({"task": "ecg", "wait_s": 60.0}, "the test")
        done = flctl("status")
        assert (done.code, done.err) == (0, "")
        assert f"{run}  round 1/30, waiting for agents: pi-01" in done.out
        events = (told.event for told in operator.watch(run) if told is not None)
        told = next(event for event in events if isinstance(event, AgentsAwaited))
        assert told.missing == "pi-01: not connected"
        operator.stop(run)
