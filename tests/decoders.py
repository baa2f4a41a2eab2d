"""Everything that decodes bytes from a network or a file, in one table: a good example of each,
and how it is read. The tests damage the examples (`test_decoders.py`), `make fuzz` looks for
damage that nobody thought of.

A reader raises FlctlError of one line, or returns.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flctl.agent.log import AgentLog
from flctl.agent.state import saved_log, saved_tasks, stored_server_keys
from flctl.coordinator.alerts.book import load_book
from flctl.coordinator.alerts.sending import body_of
from flctl.coordinator.alerts.settings import read_settings
from flctl.coordinator.store.audit import Actor, Audit, read_line
from flctl.coordinator.store.journal import Journal, replay
from flctl.coordinator.store.labels import load_labels, save_labels
from flctl.core import chain
from flctl.core import events as happened
from flctl.core.alerts import AlertBook, Alerting, Observed, Span
from flctl.core.labelling import Labelling
from flctl.fleet import heads, pages
from flctl.fleet.context import load_context
from flctl.fleet.inventory import decode_list
from flctl.learning.manifest import read_manifest
from flctl.run_toml import from_toml, read_toml, to_toml
from flctl.settings import (
    SCHEMA,
    LocalTraining,
    parse,
)
from flctl.transport import allowlist
from flctl.transport.allowlist import AllowList, Entry
from flctl.transport.keypair import KeyPair, load_or_make, read_public
from flctl.transport.rotation import KeyRotation, Rotation
from flctl.transport.tokens import find_open, new_token
from flctl.wire import framing
from flctl.wire import messages as m
from flctl.wire.compression import check_update, compression_metadata, packed_specs
from flctl.wire.parameters import STORAGE, ParameterFile, canonical, check, dump
from flctl.worker.jobs import AnyEvent, Stepped
from flctl.worker.pipe import Unpacker

SHA = "a" * 64
MODEL = {
    "weight": ("F32", np.arange(12, dtype=np.float32).reshape(3, 4)),
    "half": ("BF16", np.full(3, 0x3F80, np.uint16)),
    "steps": ("I64", np.zeros((), np.int64)),
    "flag": ("BOOL", np.array([True, False])),
}


class Decodes(NamedTuple):
    name: str
    good: Callable[[], bytes]
    read: Callable[[bytes], Any]
    slow: bool = False


# From the network ------------------------------------------------------------------------


def _message() -> bytes:
    key = m.WorkKey(run="ecg-1", version=2, base=SHA, sequence=3)
    claim = m.Claim(examples=5, batches=2, loss=0.5, last_loss=0.25, seconds=1.5)
    ready = m.UpdateReady(key=key, update=m.Coded(blob=SHA, size=10), claim=claim)
    return bytes(framing.encode(ready)[1])


def _order() -> bytes:
    return bytes(
        framing.encode(
            m.Train(
                key=m.WorkKey(run="ecg-1", version=2, base=SHA, sequence=3),
                model=m.Model(shared=m.Coded(blob=SHA, size=10)), task="ecg",
                dataset="default", training=_settings().local_training(1), seed=1, position=4,
            )
        )[1]
    )  # fmt: skip


def _answer() -> bytes:
    return bytes(framing.encode(m.Answer(id=1, body={"agents": [1, 2.5, "x", None]}))[1])


def _frames(decoder: framing.Decoder) -> Callable[[bytes], Any]:
    prefix = framing.MAGIC + bytes([framing.PROTOCOL])
    return lambda data: decoder([prefix, data])


def _notice() -> bytes:
    return bytes(framing.notice("1.0")[1])


def _pipe() -> bytes:
    body = msgspec.msgpack.encode(Stepped(step=1, steps=2, loss=0.5))
    return len(body).to_bytes(4, "big") + b"\0" + body


# Models ------------------------------------------------------------------------------------


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("decodes")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


@cache
def _model() -> bytes:
    with _in_memory(b"") as fd:
        dump(fd, MODEL, {"task": "ecg"})
        return os.pread(fd, 1 << 20, 0)


def _read_model(data: bytes) -> None:
    with _in_memory(data) as fd:
        file = ParameterFile(fd, "the model")
        check(file, file.specs)


def _asked(kind: str) -> LocalTraining:
    return _settings(compression=kind).local_training(1)


def _packed(kind: str) -> Callable[[], bytes]:
    def packed() -> bytes:
        with _in_memory(_model()) as base, _in_memory(b"") as fd:
            specs = packed_specs(ParameterFile(base, "base").specs, _asked(kind))
            tensors = {
                spec.name: (spec.dtype, np.zeros(spec.shape, STORAGE[spec.dtype]))
                for spec in canonical(specs)
            }
            for name in ("indices",):
                if name in tensors:
                    length = tensors[name][1].shape[0]
                    tensors[name] = ("I32", np.arange(length, dtype=np.int32))
            dump(fd, tensors, compression_metadata(_asked(kind).compression))
            return os.pread(fd, 1 << 20, 0)

    return cache(packed)


def _read_packed(kind: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with _in_memory(_model()) as base, _in_memory(data) as fd:
            update = ParameterFile(fd, "update of pi-01")
            check_update(update, ParameterFile(base, "the model"), _asked(kind))

    return read


# Files -------------------------------------------------------------------------------------


def _file(name: str, read: Callable[[Path], Any], **beside: bytes) -> Callable[[bytes], Any]:
    """`read` gets the path of a file of this name; others may lie beside it."""

    def through(data: bytes) -> Any:
        with tempfile.TemporaryDirectory(prefix="flctl-decodes-") as folder:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            for other, content in beside.items():
                (Path(folder) / f"{path.stem}.{other}").write_bytes(content)
            return read(path)

    return through


@cache
def _settings(**given: Any) -> Any:
    return parse({"task": "ecg", "partition": "iid", "epochs": 1, "batch_size": 8, "lr": 0.1,
                  "optimizer": "sgd", "test_batch_size": 8, **given}, "here")  # fmt: skip


@cache
def _journal() -> bytes:
    update = happened.UpdateStored(
        at=3.0, round=1, agent="pi-01", blob=SHA, size=10, examples=5, batches=2, loss=0.5,
        last_loss=0.25, exhausted=False, seconds=1.5,
    )  # fmt: skip
    events = [
        happened.RunStarted(
            at=1.0, schema=SCHEMA, run="ecg-1", kind="fleet", task_digest=SHA, model=SHA, size=10,
            version="0.1", machine="x86_64",
        ),
        happened.RoundOpened(
            at=2.0, round=1, attempt=1, base=SHA, invited=("pi-01",), need=1
        ),
        update,
        happened.RoundCommitted(
            at=4.0, round=1, attempt=1, model="b" * 64, size=10, seconds=2.0,
            participants={"pi-01": happened.Participant.of(update)}, missing=(), metrics=None,
        ),
        happened.RunFinished(at=5.0),
    ]  # fmt: skip
    return b"".join(msgspec.json.encode(msgspec.to_builtins(event)) + b"\n" for event in events)


def _open_journal(path: Path) -> None:
    """Read, and opened to go on in: that cuts a torn end off."""
    replay(path)
    Journal(path).close()
    replay(path)


def _rotation() -> bytes:
    return msgspec.json.encode(Rotation(old="o" * 40, new="n" * 40, began=1.0, ends=2.0))


@cache
def _audit() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(Path(folder), wall_clock=lambda: 1.0)
        with audit.action(Actor("ana", "admin", "10.0.0.7"), "cordon", {"name": "pi-01"}) as came:
            came["name"] = "pi-01"
        return audit.path.read_bytes()


def _follow_audit(path: Path) -> None:
    """Read as `flctl audit` does, and gone on with: that cuts a torn end off."""
    lines = list(pages.lines(pages.local(path), "it"))
    chain.verify(lines)
    for line in lines:
        read_line(line)
    Audit(path.parent).begin(Actor("ana", "admin"), "cordon", {})


@cache
def _keys() -> bytes:
    pair = KeyPair.make()
    allowed = AllowList(keys=[Entry(name="pi-01", key=pair.public, role="agent", added=1.0)])
    allowed.tokens.append(new_token(60, 1, 0.0, None)[1])
    return msgspec.json.encode(allowed)


def _redeem(path: Path) -> None:
    allowed = allowlist.read(path)
    allowed.free_name()
    find_open(allowed.tokens, "flt_guess", 0.0)


@cache
def _secret() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        load_or_make(Path(folder) / "key")
        return (Path(folder) / "key").read_bytes()


@cache
def _public() -> bytes:
    return KeyPair.make().public.encode() + b"\n"


@cache
def _context() -> bytes:
    pair = KeyPair.make()
    return msgspec.json.encode(
        {"coordinator": "pc:7700", "server_key": pair.public, "public_key": pair.public,
         "secret_key": pair.secret}
    )  # fmt: skip


@cache
def _manifest() -> bytes:
    counts = {"examples": 2, "classes": {"N": 2}, "records": {"100": {"N": 2}}}
    return msgspec.json.encode(
        {
            "schema": 1, "command": "flctl data split", "flctl": "0.1", "task": "ecg",
            "classes": ["N"], "partition": "iid", "alpha": 0.5, "seed": 1, "agents": 1,
            "shares": {"pi-01": {"parts": {"train": counts},
                                 "files": {"b.npz": {"size": 3, "sha256": SHA}}}},
        }
    )  # fmt: skip


def _whole_manifest(path: Path) -> None:
    from flctl.learning.manifest import check as check_shares

    list(check_shares(path.parent, read_manifest(path.parent)))


LISTED = (
    b'{"_meta":{"hostvars":{"pi-01":{"ansible_host":"192.0.2.1"}}},'
    b'"all":{"children":["pis"]},"pis":{"hosts":["pi-01","pi-02"]}}'
)


@cache
def _npz() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.npz"
        y = np.zeros(3, np.int8)
        np.savez(path, X=np.ones((3, 187), np.int16), y=y, record=np.arange(3), split=y)
        return path.read_bytes()


@cache
def _csv() -> bytes:
    return b"".join(b",".join([b"0.5"] * 187 + [b"1"]) + b"\n" for _ in range(2))


@cache
def _record() -> dict[str, bytes]:
    from wfdb_records import write_record

    with tempfile.TemporaryDirectory() as folder:
        header = write_record(Path(folder) / "r")
        return {s: header.with_suffix(f".{s}").read_bytes() for s in ("hea", "dat", "atr")}


def _read_beats(path: Path) -> None:
    from flctl.learning.beat_files import READERS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        READERS[path.suffix](path, labelled=False)


def _part_of_a_record(part: str) -> Callable[[bytes], Any]:
    def read(data: bytes) -> None:
        others = {name: content for name, content in _record().items() if name != part}
        through = _file(f"r1.{part}", lambda p: _read_beats(p.with_suffix(".hea")), **others)
        through(data)

    return read


def _idx() -> bytes:
    return bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4)) + bytes(32)


def _read_idx(path: Path) -> None:
    from flctl.learning.idx import read_images

    read_images(path)


def _settings_file() -> bytes:
    return to_toml(_settings()).encode()


def _by_hand(path: Path) -> None:
    parse(read_toml(path), str(path))


def _alerts() -> bytes:
    """A book with an alert, a mute and a notice."""
    alerting = Alerting({"conflict": Span(0, 0)}, ("webhook",), AlertBook(), 5.0, 1.7e9)
    alerting.mute("pi-02", 60, 5.0)
    alerting.observe([Observed("conflict", "pi-01", True, "two")], 5.0, 1.7e9)
    return msgspec.json.encode(alerting.book(5.0, 1.7e9))


def _alarmed(path: Path) -> None:
    book = load_book(path.parent)
    alerting = Alerting({"conflict": Span(0, 0)}, ("webhook", "command"), book, 5.0, 1.7e9)
    alerting.observe([Observed("conflict", "pi-03", True, "two")], 5.0, 1.7e9)
    msgspec.json.encode(alerting.book(5.0, 1.7e9))
    for notice in alerting.waiting("command"):
        body_of([notice], 1.7e9)


def _labels() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        changed = {"pi-01": {"site": "ward-4", "model": None}}
        save_labels(Path(folder), Labelling({"pi-01": {"site": "ward-3"}}, changed))
        return (Path(folder) / "labels.json").read_bytes()


def _label(path: Path) -> None:
    """Read as at a start, changed, and chosen by."""
    found = load_labels(path.parent)
    found.on_said("pi-02", {"site": "ward-3"})
    for agent in (*found.own, *found.changed):
        found = found.change(agent, {"site": "ward-9"}, reset=True)
        found.chosen(["site=ward-3"], [agent])
    save_labels(path.parent, found)


def _log_again(path: Path) -> None:
    """As the next process of the agent takes it up."""
    log = AgentLog(saved_log(path.parent))
    log.answer(m.SendLog(id=1, lines=9, after=f"{'a' * 32}:3:1.000"), 1.0)
    msgspec.json.encode(log.last())


TABLE = (
    Decodes("message to a coordinator", _message, _frames(framing.to_coordinator())),
    Decodes("message to an agent", _order, _frames(framing.to_agent())),
    Decodes("message to an operator", _answer, _frames(framing.to_operator())),
    Decodes("notice", _notice, lambda data: framing.read_notice([b"", data])),
    Decodes("worker pipe", _pipe, lambda data: Unpacker[Any](AnyEvent).feed(data, [])),
    Decodes("model", _model, _read_model),
    *(Decodes(f"{k} update", _packed(k), _read_packed(k)) for k in ("fp16", "int8", "topk")),
    Decodes("journal", _journal, _file("journal.jsonl", _open_journal)),
    Decodes("audit file", _audit, _file("audit.jsonl", _follow_audit)),
    Decodes("kept head", lambda: b'{"head":"%s","what":"round 1","at":1.0}' % SHA.encode(),
            _file("heads/ecg-1.json", lambda p: heads.kept(p.parents[1], "ecg-1"))),
    Decodes("run.toml", _settings_file, _file("run.toml", from_toml)),
    Decodes("settings by hand", _settings_file, _file("run.toml", _by_hand)),
    Decodes("coordinator.toml", lambda: b'[alerts]\n[alerts.command]\nrun = ["true"]',
            _file("coordinator.toml", read_settings)),
    Decodes("alerts.json", _alerts, _file("alerts.json", _alarmed)),
    Decodes("labels.json", _labels, _file("labels.json", _label)),
    Decodes("log.json", lambda: b'[{"at":1.5,"level":"INFO","text":"begins"}]',
            _file("log.json", _log_again)),
    Decodes("allowed.json", _keys, _file("allowed.json", _redeem)),
    Decodes("rotation.json", _rotation, _file("rotation.json", lambda p: KeyRotation(p.parent))),
    Decodes("server-keys.json", lambda: b'{"given":"%s","keys":["%s"]}' % (b"k" * 40, b"n" * 40),
            _file("server-keys.json", lambda path: stored_server_keys(path.parent, "k" * 40))),
    Decodes("secret key", _secret, _file("agent.key", load_or_make)),
    Decodes("public key", _public, _file("agent.pub", read_public)),
    Decodes(
        "context", _context, _file("contexts/default.json", lambda p: load_context(p.parents[1]))
    ),
    Decodes("tasks.json", lambda: b'{"ecg":"%s"}' % SHA.encode(),
            _file("tasks.json", lambda path: saved_tasks(path.parent))),
    Decodes("manifest", _manifest, _file("manifest.json", _whole_manifest)),
    Decodes("inventory", lambda: LISTED, lambda data: decode_list(data, Path("fleet.json"))),
    Decodes("beats, npz", _npz, _file("b.npz", _read_beats)),
    Decodes("beats, CSV", _csv, _file("b.csv", _read_beats)),
    Decodes("record, header", lambda: _record()["hea"], _part_of_a_record("hea"), slow=True),
    Decodes("record, signal", lambda: _record()["dat"], _part_of_a_record("dat"), slow=True),
    Decodes("record, annotations", lambda: _record()["atr"], _part_of_a_record("atr"), slow=True),
    Decodes("IDX images", _idx, _file("images", _read_idx)),
)  # fmt: skip
