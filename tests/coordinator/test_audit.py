"""The audit file: who changed what, when, from where, and how it ended."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet
from test_operators import console
from test_questions import answer

from flctl.coordinator.store import audit as audits
from flctl.coordinator.store.audit import ALL_REFUSALS, ORDERS, REFUSALS, Actor, Audit
from flctl.core.chain import verify
from flctl.errors import AccessError, StateError
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire import questions as q
from flctl.wire.messages import Answer, Join, RunEvent, Trouble

ANA = Actor("ana", "admin", "10.0.0.7", "k" * 40)


def lines(state: Path) -> list[dict[str, Any]]:
    path = state / "audit.jsonl"
    if not path.exists():
        return []
    data = path.read_bytes()
    assert verify(data.splitlines(keepends=True)).fault is None
    return [json.loads(line) for line in data.splitlines()]


ORDERS_GIVEN: dict[type[q.Question], dict[str, Any]] = {
    q.StartRun: {"given": {"task": "ecg", "rounds": 1}},
    q.StopRun: {"run": "none"},
    q.PauseRun: {"run": "none"},
    q.ResumeRun: {"run": "none"},
    q.AddKey: {"name": "bob", "key": KeyPair.make().public, "role": "read"},
    q.RevokeKey: {"name": "pi-01"},
    q.NewToken: {"ttl_s": 60, "uses": 1},
    q.CloseTokens: {"ids": None},
    q.OpenTokenFolder: {"ttl_s": 60},
    q.RotateServer: {"step": "begin", "overlap_s": 3600.0},
    q.PersonaliseRun: {"run": "none"},
    q.Cordon: {"name": "pi-02"},
    q.Uncordon: {"name": "pi-02"},
    q.LabelAgent: {"name": "pi-02", "labels": {"site": "ward-3"}},
    q.AckAlert: {"id": 1},
    q.MuteAlerts: {"name": "throttled", "for_s": 60.0},
    q.TestAlerts: {},
}
ASKED_WITH: dict[type[q.Question], dict[str, Any]] = {
    q.StillWatching: {"question": 1},
    q.ReadLog: {"agent": "pi-01"},
    q.ReadHistory: {"agent": "pi-01", "figure": "state"},
}


@pytest.mark.parametrize(("what", "kind"), q.KINDS.items())
def test_every_question_changes_nothing_or_stands_in_the_audit_file(
    fleet: MemoryFleet, what: str, kind: type[q.Question]
):
    """A new one is under `Order`, and then it is audited by itself, or it only looks."""
    boss = KeyPair.make().public
    fleet.keyring.add("boss", boss, "admin")
    if not issubclass(kind, q.AdminOrder):
        run = fleet.start_run(rounds=1)
        fleet.finish()
        args = {"run": run} if "run" in kind.__struct_fields__ else ASKED_WITH.get(kind, {})
        keys = (fleet.state / "keys" / "allowed.json").read_bytes()
        said = answer(fleet, what, boss, **args)
        assert isinstance(said, Answer | RunEvent) or "ends with its run" in said.message
        assert lines(fleet.state) == []
        assert (fleet.state / "keys" / "allowed.json").read_bytes() == keys
        return
    args = ORDERS_GIVEN.get(kind, {})
    said = answer(fleet, what, boss, **args)
    begun, end = lines(fleet.state)
    shown = (begun["who"], begun["role"], begun["key"], begun["action"], begun["outcome"])
    assert shown == ("boss", "admin", boss, what, "begun")
    assert begun["id"] == end["id"] and begun["at"].endswith("Z")
    assert end["outcome"] == ("done" if isinstance(said, Answer) else "failed")
    if isinstance(said, Trouble):
        assert end["detail"] == said.message
    for name, value in args.items():
        assert value is None or begun["args"][name] == value


def test_a_run_that_is_stopped_has_its_outcome_when_it_has_ended(fleet: MemoryFleet):
    """Both answers come later than the question."""
    fleet.start_run(rounds=100)
    fleet.until(lambda: bool(fleet.named("round")))
    with console(fleet) as operator:
        run = str(fleet.history().started.run)  # type: ignore[union-attr]
        operator.stop(run)
        new = operator.start({"task": "ecg", "rounds": 1}, "the test")
    told = [(line["action"], line["outcome"], line.get("detail")) for line in lines(fleet.state)]
    assert told == [
        ("stop", "begun", None),
        ("stop", "done", {"run": run}),
        ("start", "begun", None),
        ("start", "done", {"run": new}),
    ]


def test_a_token_is_never_written_and_a_join_names_it(fleet: MemoryFleet):
    """By the id that `keys tokens` shows: which token let which key in."""
    with console(fleet) as operator:
        token = operator.token(60, 1)
    key = KeyPair.make().public
    link = fleet.network.link(key)
    link.send(framing.encode(Join(token=token, name="pi-09")))
    fleet.until(lambda: fleet.keyring.name_of(key) == "pi-09")
    data = (fleet.state / "audit.jsonl").read_text()
    assert token not in data and "flt_" not in data
    _, opened, joins, joined = lines(fleet.state)
    assert joins["args"] == {"name": "pi-09", "token": opened["detail"]["id"], "shard": False}
    assert (joins["key"], joined["outcome"], joined["detail"]["name"]) == (key, "done", "pi-09")


def test_what_is_refused_stands_there_and_is_bounded(fleet: MemoryFleet):
    """A read key that wants to steer, an agent that asks, a guest with a wrong token."""
    reader, guest = KeyPair.make().public, KeyPair.make().public
    fleet.keyring.add("ana", reader, "read")
    for _ in range(5 * REFUSALS):
        answer(fleet, "cordon", reader, name="pi-01")
    refused = [line for line in lines(fleet.state) if line["who"] == "ana"]
    assert len(refused) == REFUSALS
    assert (refused[0]["action"], refused[0]["outcome"]) == ("cordon", "refused")
    assert "needs an admin key" in refused[0]["detail"]
    fleet.step(61)
    answer(fleet, "audit", reader)  # nor may it read this
    assert lines(fleet.state)[-1]["left_out"] == 4 * REFUSALS
    fleet.keyring.new_token(60, 1)
    link = fleet.network.link(guest)
    link.send(framing.encode(Join(token="flt_0123456789", name="pi-08")))
    fleet.until(lambda: bool(link.inbox))
    last = lines(fleet.state)[-1]
    assert (last["action"], last["role"], last["outcome"]) == ("join", "guest", "refused")


def test_refusals_of_many_names_are_bounded_together(tmp_path: Path):
    """An hour of a hundred names is an hour of one."""
    audit = Audit(tmp_path, clock=lambda: 5.0)
    for number in range(100):
        for _ in range(REFUSALS):
            audit.refused(Actor(f"pi-{number}", "agent"), "start", "no")
    assert len(lines(tmp_path)) == ALL_REFUSALS


def test_orders_of_one_operator_are_bounded(tmp_path: Path, monkeypatch):
    """Else an admin key fills the disk."""
    monkeypatch.setattr(audits.os, "fdatasync", lambda fd: None)
    now = [0.0]
    audit = Audit(tmp_path, clock=lambda: now[0])
    for _ in range(ORDERS):
        audit.begin(ANA, "cordon", {})
    with pytest.raises(AccessError, match="more than 600 orders within a minute"):
        audit.begin(ANA, "cordon", {})
    audit.begin(ANA._replace(who="bob"), "cordon", {})
    now[0] = 61
    audit.begin(ANA, "cordon", {})


def test_what_cannot_be_written_does_not_happen(fleet: MemoryFleet):
    """But for what only ends something or shuts somebody out; what was done is never undone."""
    run = fleet.start_run(rounds=100)
    fleet.until(lambda: bool(fleet.named("round")))

    token = fleet.keyring.new_token(60, 1)
    assert fleet.coordinator is not None
    fleet.coordinator.audit.path = Path("/dev/full")
    said = answer(fleet, "key-add", name="eve", key=KeyPair.make().public, role="admin")
    assert isinstance(said, Trouble) and "without a line there nothing is changed" in said.message
    assert "eve" not in {entry.name for entry in fleet.keyring.entries()}
    assert isinstance(answer(fleet, "key-revoke", name="pi-03"), Answer)
    assert "pi-03" not in fleet.coordinator.roster.members  # told before its connection is cut
    assert isinstance(answer(fleet, "stop", run=run), Answer)
    guest = KeyPair.make().public
    link = fleet.network.link(guest)
    link.send(framing.encode(Join(token=token, name="pi-09")))
    fleet.until(lambda: bool(link.inbox))
    assert fleet.keyring.name_of(guest) is None


def test_the_file_is_for_its_owner_and_every_line_is_on_disk(tmp_path: Path, monkeypatch):
    """As it is written; half a line that did not fit is taken back."""
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(audits.os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
    audit = Audit(tmp_path, wall_clock=lambda: 1_795_764_669.5)
    with audit.action(ANA, "cordon", {"name": "pi-01"}) as came:
        assert len(synced) == 1
        came["name"] = "pi-01"
    assert len(synced) == 2
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600
    begun, end = lines(tmp_path)
    assert (begun["at"], begun["from"]) == ("2026-11-27T07:31:09.500Z", "10.0.0.7")
    assert end["detail"] == {"name": "pi-01"}
    before = audit.path.read_bytes()
    write = os.write

    def half(fd: int, data: bytes) -> int:
        write(fd, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audits.os, "write", half)
        with pytest.raises(StateError, match="the disk is full; make room"):
            audit.begin(ANA, "cordon", {})
    assert audit.path.read_bytes() == before


def test_a_torn_last_line_is_taken_away(tmp_path: Path):
    """Power was cut while it was written."""
    audit = Audit(tmp_path)
    for _ in range(300):  # longer than the part that is looked at
        audit.begin(ANA, "cordon", {"name": "x" * 250})
    whole = audit.path.read_bytes()
    for torn in (b'{"at":"2', b"\0" * 40, b"\0" * 40 + b"\n"):
        audit.path.write_bytes(whole + torn)
        audit.begin(ANA, "uncordon", {})
        assert len(lines(tmp_path)) == 301
        assert audit.path.read_bytes().startswith(whole)


def test_two_processes_write_one_chain(tmp_path: Path):
    """The coordinator, and `flctl keys` on its folder."""

    def write() -> None:
        audit = Audit(tmp_path)
        for _ in range(30):
            audit.begin(ANA, "cordon", {})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path)) == 120


def test_no_argument_makes_a_line_that_is_too_long(tmp_path: Path):
    """Nor one that nests too deep, cannot be encoded, or holds a token by mistake."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    audit = Audit(tmp_path)
    token = "flt_" + "0a" * 20
    audit.begin(ANA, "start", {"a": "x" * 9000, "b": deep, "c": "\udcff", "d": [token], token: 1})
    audit.begin(ANA, "start", {str(n): "y" * 200 for n in range(200)})
    first, second = lines(tmp_path)
    assert len(json.dumps(first)) < 2000 and token not in json.dumps(first)
    assert second["args"] == {"left out": "200 arguments, too long for a line"}


def test_keys_that_are_changed_in_the_folder_stand_there_too(flctl, tmp_path: Path):
    """Without a coordinator: who is the account."""
    state = tmp_path / "state"
    flctl("keys", "new", tmp_path / "me.key")
    assert flctl("keys", "add", "me", tmp_path / "me.pub", "--role", "admin").code == 0
    assert flctl("keys", "add", "you", tmp_path / "me.pub").code == 1
    token = flctl("keys", "token").out.strip()
    assert flctl("keys", "revoke", "me").code == 0
    assert flctl("keys", "list").code == 0
    told = lines(state)
    assert {(line["role"], line["who"]) for line in told} == {
        ("local", audits.account(os.getuid()))
    }
    assert [(line["action"], line["outcome"]) for line in told] == [
        ("key-add", "begun"), ("key-add", "done"), ("key-add", "begun"), ("key-add", "failed"),
        ("token", "begun"), ("token", "done"), ("key-revoke", "begun"), ("key-revoke", "done"),
    ]  # fmt: skip
    assert token not in (state / "audit.jsonl").read_text()
    shown = flctl("audit").out
    assert "key-revoke" in shown and "failed" in shown
    assert [line["id"] for line in json.loads(flctl("audit", "--json").out)] == [
        line["id"] for line in told
    ]
    assert "nothing was changed" in flctl("audit", "--since", "2999-01-01").out
    assert json.loads(flctl("audit", "--json", "--since", "1h").out)


def test_an_audit_file_that_was_written_again_is_found_by_the_head_kept_here(flctl, tmp_path: Path):
    """One look at it is enough; a head that was kept elsewhere finds it, too."""
    state = tmp_path / "state"
    for name in ("pi-01", "pi-02"):
        assert flctl("keys", "add", name, KeyPair.make().public).code == 0
    head = json.loads((state / "audit.jsonl").read_bytes().splitlines()[-1])["chain"]
    assert flctl("audit", "--verify", "--head", head).code == 0
    (state / "audit.jsonl").unlink()
    (state / "keys" / "allowed.json").unlink()
    assert flctl("keys", "add", "pi-07", KeyPair.make().public).code == 0
    done = flctl("audit", "--verify")
    assert done.code == 1 and "is missing: the file was rewritten" in " ".join(done.err.split())
    assert flctl("audit", "--verify", "--head", head).code == 1
    assert "is not in it" in " ".join(flctl("audit").err.split())
    assert flctl("audit", "--head", head).code == 2


@pytest.mark.parametrize("how", [(), ("--verify",)])
def test_an_audit_file_is_shown_where_its_head_cannot_be_saved(flctl, tmp_path: Path, how):
    """As on a full disk, whose coordinator one looks at."""
    assert flctl("keys", "token").code == 0
    (tmp_path / "state" / "heads").write_text("no folder")
    done = flctl("audit", *how)
    assert done.code == 0 and done.out
    assert done.complaint.startswith("the head of the audit file is not saved: ")


def test_an_older_head_does_not_excuse_lines_that_were_cut_off(flctl, tmp_path: Path):
    """Nor does the look with it take the place of the head that proves it."""
    path = tmp_path / "state" / "audit.jsonl"
    for name in ("pi-01", "pi-02"):
        assert flctl("keys", "add", name, KeyPair.make().public).code == 0
    whole = path.read_bytes().splitlines(keepends=True)
    older = json.loads(whole[0])["chain"]
    assert flctl("audit", "--verify").code == 0
    path.write_bytes(b"".join(whole[:2]))
    for _ in range(2):
        done = flctl("audit", "--verify", "--head", older)
        assert done.code == 1 and "kept here (line 4)" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("content", "looked", "verified"),
    [(b"", 0, 1), (b"garbage", 1, 1), (b"garbage\n", 1, 1)],
)
def test_an_audit_file_without_a_line_is_damaged(flctl, tmp_path, content, looked, verified):
    """An action leaves at least one."""
    path = tmp_path / "state" / "audit.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    assert flctl("audit").code == looked
    done = flctl("audit", "--verify")
    assert done.code == verified and "no complete line" in " ".join(done.err.split())


def test_an_audit_file_that_is_a_pipe_is_not_waited_for(flctl, tmp_path: Path):
    (tmp_path / "state").mkdir()
    os.mkfifo(tmp_path / "state" / "audit.jsonl")
    done = flctl("audit")
    assert done.code == 1 and "is not a regular file" in " ".join(done.err.split())


def test_a_time_before_all_times_is_wrong_usage(flctl):
    assert flctl("keys", "add", "pi-01", KeyPair.make().public).code == 0
    done = flctl("audit", "--since", "9999999999d")
    assert done.code == 2 and "too long ago" in done.err


def test_a_changed_line_is_named(flctl, tmp_path: Path):
    """With its number."""
    flctl("keys", "add", "pi-01", KeyPair.make().public)
    path = tmp_path / "state" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"pi-01"', b'"pi-02"', 1))
    done = flctl("audit", "--verify")
    assert done.code == 1 and "breaks at line 1" in " ".join(done.err.split())


def test_an_admin_reads_it_over_the_connection(fleet: MemoryFleet):
    """In pages; nobody else may."""
    with console(fleet) as operator:
        assert operator.audit(0) == b""
        operator.cordon("pi-01")
        data = (fleet.state / "audit.jsonl").read_bytes()
        assert operator.audit(0) == data and operator.audit(len(data)) == b""


def test_the_end_of_a_long_audit_file_is_asked_for_alone(fleet: MemoryFleet):
    """However long it is."""
    assert fleet.coordinator is not None
    path = fleet.coordinator.audit.path
    with console(fleet) as operator:
        assert operator.audit_end(1000) == b""
        path.write_bytes(b"".join(b"%09d\n" % number for number in range(400_000)))
        assert operator.audit_end(1000) == path.read_bytes()[-1000:]
        assert operator.audit_end(10**7) == path.read_bytes()
