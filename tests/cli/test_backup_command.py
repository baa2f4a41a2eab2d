"""`flctl backup` and `flctl restore`: what comes back, and what is refused."""

import os
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyrage
import pytest
from real_fleet import RealFleet, wait_for
from real_fleet import flctl as command

from flctl.coordinator.store.folder import BEST, LAST, all_runs
from flctl.coordinator.store.journal import verdict
from flctl.fleet import backup as backing
from flctl.fleet.virtual import VirtualRun
from flctl.transport.keys import Keyring


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with keys, a finished run and an audit file."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(1)
    data = folder / "beats.npz"
    np.savez(
        data,
        X=rng.integers(-300, 300, (80, 187)).astype(np.int16),
        y=np.arange(80) % 3,
        split=(np.arange(80) % 4 == 3).astype(np.int8),
    )
    state = folder / "state"
    given = {"task": "ecg", "virtual": 2, "rounds": 3, "partition": "iid", "data": str(data)}
    VirtualRun.start(state, given, "the test").run()
    keyring = Keyring(state / "keys")
    assert keyring.server.public
    done = command("keys", "token", "--state", state)
    assert done.returncode == 0, done.stderr
    return state


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    # With its hard links: the best and the last model have two names.
    subprocess.run(["cp", "-a", made, tmp_path / "state"], check=True)
    return tmp_path / "state"


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, Path]:
    pair = pyrage.x25519.Identity.generate()
    path = tmp_path / "own.key"
    path.write_text(f"# made by age-keygen\n{pair}\n")
    return str(pair.to_public()), path


def files(state: Path) -> dict[str, bytes]:
    """Without locks, and without the audit file, which backup and restore add to."""
    return {
        str(p.relative_to(state)): p.read_bytes()
        for p in state.rglob("*")
        if p.is_file() and p.name not in ("lock", ".allowed.lock", "audit.jsonl")
    }


def test_all_comes_back(flctl, state: Path, key, tmp_path: Path) -> None:
    """The same bytes, for this user only, chained on; and nothing of it in the clear."""
    public, identity = key
    file, new = tmp_path / "fleet.age", tmp_path / "there" / "new"
    done = flctl("backup", file, "--recipient", public)
    assert done.code == 0, done.err
    assert file.stat().st_mode & 0o777 == 0o600
    secret = (state / "keys" / "server.key").read_bytes().strip()
    assert (
        file.read_bytes().startswith(b"age-encryption.org/v1") and secret not in file.read_bytes()
    )
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

    listed = flctl("restore", file, "--identity", identity, "--list")
    run = next(all_runs(state)).name
    assert listed.code == 0 and f"run {run}" in listed.out and "server key flk_" in listed.out

    done = flctl("restore", file, "--identity", identity, "--state", new)
    assert done.code == 0 and "flctl coordinator" in done.out, done.err
    assert files(new) == files(state)
    assert all(p.stat().st_mode & 0o077 == 0 for p in (new, *new.rglob("*")))
    assert list(new.parent.iterdir()) == [new]
    before, after = state / "audit.jsonl", new / "audit.jsonl"
    begun = before.read_bytes().splitlines()[:-1]  # `done` comes when the backup is written
    assert after.read_bytes().splitlines()[: len(begun)] == begun
    audit = flctl("audit", "--verify", "--state", new, "--context", "local")
    assert audit.code == 0, audit.err
    assert b'"action":"restore"' in after.read_bytes().splitlines()[-1]
    folder = next(all_runs(new))
    assert verdict(folder.journal_path).fault is None
    history = folder.history()
    folder.verify_model(history.round, history.model_of(history.round))
    for name in (BEST, LAST):  # twice in the folder, once in the backup
        assert (folder.path / name).stat().st_nlink > 1
    assert flctl("runs", "show", run, "--state", new, "--context", "local").code == 0


def test_a_new_key_pair_is_made_where_asked_for(flctl, state: Path, tmp_path: Path) -> None:
    """Its secret half for this user only; what is there already stays."""
    file, identity = tmp_path / "fleet.age", tmp_path / "backup.key"
    done = flctl("backup", file, "--new-identity", identity)
    assert done.code == 0 and "age1" in done.out, done.err
    assert identity.stat().st_mode & 0o777 == 0o600
    assert flctl("restore", file, "--identity", identity, "--list").code == 0
    before = identity.read_bytes()
    other = tmp_path / "other.age"
    done = flctl("backup", other, "--new-identity", identity)
    assert done.code == 2 and "already exists" in done.err and identity.read_bytes() == before
    assert not other.exists()


@pytest.mark.parametrize("replaced", ["a backup", "a link to nothing"])
def test_a_backup_that_is_there_is_replaced_only_by_force(
    flctl, state: Path, key, tmp_path: Path, replaced: str
) -> None:
    """It may be for a key that the new one is not for. No key pair is made for what is refused."""
    file, identity = tmp_path / "fleet.age", tmp_path / "backup.key"
    if replaced == "a backup":
        assert flctl("backup", file, "--recipient", key[0]).code == 0
    else:
        file.symlink_to(tmp_path / "elsewhere")
    before = file.read_bytes() if file.exists() else None
    done = flctl("backup", file, "--new-identity", identity)
    assert done.code == 2 and "--force" in done.err and done.err.count("\n") == 1
    assert (file.read_bytes() if file.exists() else None) == before and not identity.exists()
    assert flctl("backup", file, "--new-identity", identity, "--force").code == 0
    assert flctl("restore", file, "--identity", identity, "--list").code == 0


def test_a_backup_that_fails_leaves_no_key(flctl, state: Path, tmp_path: Path) -> None:
    """And without its key there is no backup."""
    identity = tmp_path / "backup.key"
    done = flctl("backup", tmp_path / "nope" / "b.age", "--new-identity", identity)
    assert done.code == 1 and not identity.exists() and "key pair" not in done.out, done
    done = flctl("backup", tmp_path / "b.age", "--new-identity", tmp_path / "nope" / "key")
    assert done.code == 1 and not list(tmp_path.glob("*b.age*")), done


def test_wrong_usage_is_one_line(flctl, state: Path, key, tmp_path: Path) -> None:
    """No key, half a key, a secret one, a folder with nothing of flctl; no file comes of it."""
    public, identity = key
    file, empty = tmp_path / "fleet.age", tmp_path / "empty"
    empty.mkdir()
    secret = identity.read_text().split()[-1]
    cases: list[tuple[list[object], str]] = [
        ([], "--recipient age1"),
        (["--recipient", public[:-3]], "not a public key"),
        (["--recipient", secret], "secret key"),
        (["--recipients-file", tmp_path / "none"], "none"),
        (["--recipient", public, "--state", empty], "not a state folder of flctl"),
        (["--recipient", public, "--state", tmp_path / "away"], "not a state folder of flctl"),
    ]
    for options, told in cases:
        done = flctl("backup", file, *options)
        assert done.code in (1, 2) and told in done.err and done.err.count("\n") == 1, done
        assert secret not in done.err and not file.exists()
    (tmp_path / "keys.txt").write_text(f"# ours\n\n{public}\n")
    assert flctl("backup", file, "--recipients-file", tmp_path / "keys.txt").code == 0
    for name in ("own.key", "keys.txt", "none"):
        there = tmp_path / "state" if name == "own.key" else tmp_path / "new"
        done = flctl("restore", file, "--identity", tmp_path / name, "--state", there)
        assert done.code in (1, 2) and done.err.count("\n") == 1, done
    assert not (tmp_path / "new").exists()


def test_without_the_package_one_line_says_how_to_get_it(flctl, state, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyrage", None)
    done = flctl("backup", tmp_path / "fleet.age", "--recipient", "age1x")
    assert done.code == 2 and "pip install 'flctl[backup]'" in done.err


def test_a_folder_that_is_not_empty_stays_as_it_is(flctl, state: Path, key, tmp_path: Path) -> None:
    public, identity = key
    file = tmp_path / "fleet.age"
    assert flctl("backup", file, "--recipient", public).code == 0
    before = files(state)
    done = flctl("restore", file, "--identity", identity)
    assert done.code == 2 and "is not empty" in done.err and files(state) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert flctl("restore", file, "--identity", identity, "--state", empty).code == 0


def test_a_wrong_key_a_cut_or_a_changed_file_restores_nothing(
    flctl, state: Path, key, tmp_path: Path
) -> None:
    """Cut anywhere, also where one of age's chunks ends."""
    public, identity = key
    file, new = tmp_path / "fleet.age", tmp_path / "new"
    assert flctl("backup", file, "--recipient", public).code == 0
    whole = file.read_bytes()
    header = whole.index(b"\n--- ") + 1 + whole[whole.index(b"\n--- ") + 1 :].index(b"\n") + 1 + 16
    chunk = 64 * 1024 + 16
    cuts = [0, 10, header, header + chunk, header + 3 * chunk, len(whole) // 2, len(whole) - 1]
    damaged = [whole[:cut] for cut in cuts]
    damaged.append(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    damaged.append(whole + b"x")
    damaged.append(b"not of age at all")
    for data in damaged:
        file.write_bytes(data)
        for options in (("--state", new), ("--list",)):
            done = flctl("restore", file, "--identity", identity, *options)
            assert done.code == 1 and "truncated or damaged" in done.err, (len(data), done)
            assert done.err.count("\n") == 1
    file.write_bytes(whole)
    other = tmp_path / "other.key"
    other.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    done = flctl("restore", file, "--identity", other, "--state", new)
    assert done.code == 1 and "damaged, or not encrypted for this key" in done.err
    assert not new.exists() and not list(tmp_path.glob(".new*"))


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, to: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, to
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


ABOUT = member(backing.ABOUT, b'{"format":1,"at":0,"version":"1","host":"h\\u001b[2J"}')
END = bytes(1024)


@pytest.mark.parametrize(
    "parts",
    [
        [member("../evil")],
        [member("/etc/evil")],
        [member("keys/../../evil")],
        [member("keys//evil")],
        [member("keys/.evil")],
        [member("keys/evil\n\x1b[2J")],
        [member("evil")],
        [member("keys")],
        [member("keys/evil", b"", tarfile.SYMTYPE, "/etc/passwd")],
        [member("keys/evil", b"", tarfile.LNKTYPE, "/etc/passwd")],
        [member("keys/evil", b"", tarfile.DIRTYPE)],
        [member("keys/evil", b"", tarfile.FIFOTYPE)],
        [member("keys/evil", b"20 path=../evil\n", tarfile.XHDTYPE), member("keys/x")],
        [member("././@LongLink", b"../evil\0", tarfile.GNUTYPE_LONGNAME), member("keys/x")],
        [member("keys/evil"), member("keys/evil")],
        [member("keys/evil"), member("keys/evil/x")],
        [b"\xff" * 512],
        [member("keys/evil", b"x" * 600)[:700]],
    ],
)
def test_a_planted_name_restores_nothing(flctl, key, tmp_path: Path, parts: list[bytes]) -> None:
    """Whoever knows the public key can make such a file."""
    public, identity = key
    file, new = tmp_path / "fleet.age", tmp_path / "in" / "new"
    whole = ABOUT + b"".join(parts) + (END if len(parts[-1]) % 512 == 0 else b"")
    file.write_bytes(pyrage.encrypt(whole, [pyrage.x25519.Recipient.from_str(public)]))
    done = flctl("restore", file, "--identity", identity, "--state", new)
    assert done.code == 1 and done.err.count("\n") == 1 and "\x1b" not in done.err, done
    assert not new.exists() and not list(tmp_path.rglob("*evil*"))
    assert not new.parent.exists() or not list(new.parent.iterdir())


def test_what_does_not_begin_or_end_like_a_backup_is_none(flctl, key, tmp_path: Path) -> None:
    public, identity = key
    file = tmp_path / "fleet.age"
    newer = member(backing.ABOUT, b'{"format":2,"at":0,"version":"9","host":""}')
    for whole in (b"", END, member("keys/x") + END, ABOUT, ABOUT + END + b"x", newer + END):
        file.write_bytes(pyrage.encrypt(whole, [pyrage.x25519.Recipient.from_str(public)]))
        done = flctl("restore", file, "--identity", identity, "--list")
        assert done.code == 1 and done.err.count("\n") == 1, (whole[:20], done)


def test_links_are_left_out_and_named(flctl, state: Path, key, tmp_path: Path) -> None:
    public, identity = key
    (state / "keys" / "linked").symlink_to("/etc/passwd")
    os.mkfifo(state / "keys" / "pipe")
    done = flctl("backup", tmp_path / "fleet.age", "--recipient", public)
    assert done.code == 0 and "keys/linked" in done.err and "keys/pipe" in done.err
    new = tmp_path / "new"
    assert (
        flctl("restore", tmp_path / "fleet.age", "--identity", identity, "--state", new).code == 0
    )
    assert not (new / "keys" / "linked").exists()


def test_a_broken_chain_is_named_and_the_rest_is_there(flctl, state: Path, key, tmp_path) -> None:
    """Half of a fleet is better than none; the command ends with 1."""
    public, identity = key
    journal = next(all_runs(state)).journal_path
    journal.write_bytes(journal.read_bytes().replace(b'"round":2', b'"round":3', 1))
    assert flctl("backup", tmp_path / "fleet.age", "--recipient", public).code == 0
    new = tmp_path / "new"
    done = flctl("restore", tmp_path / "fleet.age", "--identity", identity, "--state", new)
    assert done.code == 1 and "run ecg-" in done.err, done
    assert (new / "keys" / "server.key").exists()


def test_a_journal_is_taken_up_to_its_last_whole_line(state: Path) -> None:
    """What is appended, torn or removed meanwhile changes nothing in the backup."""
    run = next(all_runs(state))
    whole = run.journal_path.read_bytes()
    with run.journal_path.open("ab") as file:
        file.write(b'{"event":"half')
    stream = backing.Stream(state)
    taken = b""
    while run.name.encode() not in taken:
        taken += stream.read(512)
    with run.journal_path.open("ab") as file:
        file.write(b"more" * 1000 + b"\n")
    model = run.model_path(3).read_bytes()
    for path in (run.model_path(3), run.path / LAST, run.path / BEST):
        path.unlink(missing_ok=True)
    while data := stream.read(8192):
        taken += data
    assert whole in taken and b"half" not in taken and b"moremore" not in taken
    assert model in taken


def test_memory_is_bounded(state: Path) -> None:
    """A model is read in pieces."""
    with (next(all_runs(state)).path / "large.safetensors").open("wb") as file:
        file.truncate(64 << 20)
    stream = backing.Stream(state)
    tracemalloc.start()
    while stream.read(8192):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_run_goes_on_from_a_backup_of_a_coordinator_at_work(tmp_path: Path) -> None:
    """Taken while it trains; the coordinator and its folder are gone then. Another one with what
    was restored has the agents back, and finishes the run."""
    fleet = RealFleet(tmp_path)
    file, identity = tmp_path / "fleet.age", tmp_path / "backup.key"
    try:
        fleet.start_coordinator()
        token = fleet.token("--uses", 2)
        for name in ("pi-01", "pi-02"):
            fleet.start_agent(name, token=token)
        fleet.until_ready("pi-01", "pi-02")
        fleet.start_training("--rounds", 8, "--deadline", 60)
        wait_for(lambda: len(fleet.named("round")) >= 2, "two rounds")
        done = command("backup", file, "--new-identity", identity, "--state", fleet.state)
        assert done.returncode == 0, done.stderr
        for name in ("coordinator", "train"):
            fleet.kill(name)
        shutil.rmtree(fleet.state)
        fleet.state = tmp_path / "elsewhere"
        done = command("restore", file, "--identity", identity, "--state", fleet.state)
        assert done.returncode == 0, done.stderr
        run = next(all_runs(fleet.state))
        begun = run.history().round
        assert begun >= 2 and verdict(run.journal_path).fault is None
        fleet.start_coordinator()
        wait_for(lambda: run.history(lean=True).state == "finished", "the run ends")
        history = run.history()
        assert [event.round for event in history.rounds] == list(range(1, 9))
        assert "withdrawn" not in run.journal_path.read_text()
        assert sorted(history.rounds[-1].participants) == ["pi-01", "pi-02"]
    finally:
        fleet.close()
