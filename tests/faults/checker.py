"""What must be true after every fault, whatever it was.

`evidence` gathers what the journal, the checkpoints, the agents' own logs, the process table
and the folders say; it reads them with its own eyes, not with flctl's. `broken` compares:
each line it returns is a promise that was not kept.
"""

import fcntl
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from bed import Bed, marked

Trained = tuple[str, int]
"""Agent and round."""
_LINE = re.compile(r"round=(\d+) agent=(\S+) run=(\S+) (train begins|trained|update accepted)")
_TEMPORARY = re.compile(r"\.tmp$|\.part$|^\.")


@dataclass
class Evidence:
    run: str
    journal: list[dict[str, Any]]
    torn: bool = False
    """The journal does not end with a whole line."""
    unsealed: list[int] = field(default_factory=list)
    """Lines of the journal that do not carry the hash of themselves and all before them."""
    models: dict[int, str] = field(default_factory=dict)
    """Round to sha256 of its checkpoint, of those that are there."""
    last: str | None = None
    best: str | None = None
    began: Counter[Trained] = field(default_factory=Counter)
    """How often an agent says that it began to train a round."""
    trained: Counter[Trained] = field(default_factory=Counter)
    told_safe: set[Trained] = field(default_factory=set)
    """Agents that say that the coordinator has their update safe."""
    replayed: bool | None = None
    """Whether a run without faults gives the same bytes in every round."""
    left: list[str] = field(default_factory=list)
    """Processes, sockets, temporary files, locks."""


def evidence(bed: Bed, run: str, replay: bool = True, over: bool = True) -> Evidence:
    """`over`: the bed was closed, and nothing may be left; `replay` costs some seconds."""
    folder = bed.state / "runs" / run
    journal, torn = read_journal(folder / "journal.jsonl")
    found = Evidence(
        run=run,
        journal=journal,
        torn=torn,
        unsealed=unsealed((folder / "journal.jsonl").read_bytes()),
        models={
            int(path.parent.name): digest(path)
            for path in folder.glob("rounds/*/model.safetensors")
        },
        last=digest(folder / "last.safetensors"),
        best=digest(folder / "best.safetensors"),
        left=left_over(bed) if over else [],
    )
    for name in bed.agents:
        read_log(found, bed.log(name))
    if over:
        found.left += [*spools(folder, journal), *audit_faults(bed.state)]
    if replay:
        found.replayed = bed.replay(run).returncode == 0
    return found


def read_journal(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Its events, and whether it ends with something that is none."""
    text = path.read_bytes()
    events: list[dict[str, Any]] = []
    try:
        for line in text.splitlines():
            events.append(json.loads(line))
    except ValueError:
        return events, True
    return events, not text.endswith(b"\n")


def audit_faults(state: Path) -> list[str]:
    """The same of the coordinator's audit file, if there is one."""
    path = state / "audit.jsonl"
    text = path.read_bytes() if path.exists() else b""
    # Zeros that a power cut has left at the end are taken away with the next line.
    wrong = unsealed(text[: text.find(b"\0")] if b"\0" in text else text)
    return [f"line {number} of audit.jsonl, which breaks its chain" for number in wrong]


def unsealed(text: bytes) -> list[int]:
    """Numbers of the whole lines whose chain is not the sha256 of what it says it is."""
    chain, wrong = b"", []
    *whole, _ = text.split(b"\n")
    for number, line in enumerate(whole, start=1):
        body, _, sealed = line.rpartition(b',"chain":"')
        chain = hashlib.sha256(chain + body + b"}").hexdigest().encode()
        if sealed != chain + b'"}':
            wrong.append(number)
    return wrong


def read_log(found: Evidence, text: str) -> None:
    """Of one agent."""
    for number, agent, run, what in _LINE.findall(text):
        key = (agent, int(number))
        if run != found.run:
            continue
        if what == "train begins":
            found.began[key] += 1
        elif what == "trained":
            found.trained[key] += 1
        else:
            found.told_safe.add(key)


def digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


# What is compared ------------------------------------------------------------------------


def broken(
    found: Evidence,
    own_faults: Mapping[str, int] | None = None,
    end: str | None = "finished",
    lost_spool: int = 0,
    lost_rounds: int = 0,
    unsafe: int = 0,
) -> list[str]:
    """The promises that were not kept.

    `own_faults` says how many faults befell each agent itself: so often it may train again.
    `end` is how the run must end; None: it must only be possible to go on. `lost_spool` is
    how many stored updates the fault destroyed, `lost_rounds` how many committed rounds.
    `unsafe` is how many updates power cuts could take that were stored and not yet safe: the
    journal may have their line without their file. Their agents were not told that they are
    safe, offer them once more, and do not train again.
    """
    return [
        *_order(found, end),
        *_updates(found, lost_spool, unsafe),
        *_checkpoints(found, whole=end is not None),
        *_training(found, dict(own_faults or {}), lost_spool + lost_rounds),
        *(f"left behind: {what}" for what in found.left),
    ]


def counted(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what was taken back, because the disk had damaged it."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        if line["event"] == "withdrawn":
            kept = [old for old in kept if old.get("round", 0) <= line["round"]]
        else:
            kept.append(line)
    return kept


def _order(found: Evidence, end: str | None) -> Iterable[str]:
    lines = found.journal
    if found.torn and end is not None:
        yield "the journal ends with half a line"
    if found.unsealed and found.unsealed[0] <= len(lines):  # else it is the torn one
        yield f"the chain of the journal breaks at line {found.unsealed[0]}"
    if not lines or lines[0]["event"] != "started":
        yield "the journal does not begin with the start of the run"
        return
    if [line["event"] for line in lines].count("started") > 1:
        yield "the run started twice"
    if end is not None and lines[-1]["event"] != end:
        yield f"the run ended with {lines[-1]}, not with {end}"
    rounds = [line["round"] for line in counted(lines) if line["event"] == "round"]
    if rounds != list(range(1, len(rounds) + 1)):
        yield f"rounds were committed in the order {rounds}"
    base = lines[0]["model"]
    for line in counted(lines):
        if line["event"] == "opened" and line["base"] != base:
            yield f"round {line['round']} began with another model than the last one committed"
        if line["event"] == "round":
            base = line["model"]


def _updates(found: Evidence, lost_spool: int, unsafe: int) -> Iterable[str]:
    accepted: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in counted(found.journal):
        if line["event"] == "update":
            accepted[line["round"]][line["agent"]] = line
        if line["event"] != "round":
            continue
        number, parts = line["round"], line["participants"]
        for agent in parts.keys() - accepted[number].keys():
            yield f"round {number} counts an update of {agent} that was never accepted"
        for agent in accepted[number].keys() - parts.keys():
            yield f"round {number} lost the accepted update of {agent}"
        for agent in parts.keys() & accepted[number].keys():
            for what in ("examples", "batches"):
                if parts[agent][what] != accepted[number][agent][what]:
                    yield f"round {number} counts {agent} with other {what} than were accepted"
    within, after_a_start = _accepted_again(found)
    if within > lost_spool or within + after_a_start > lost_spool + unsafe:
        yield f"{within + after_a_start} updates were accepted a second time"
    committed = {line["round"]: line for line in counted(found.journal) if line["event"] == "round"}
    for agent, number in sorted(found.told_safe):
        if agent not in accepted[number]:
            yield f"{agent} was told that its update of round {number} is safe; it is not there"
        elif number in committed and agent not in committed[number]["participants"]:
            yield f"{agent} was told that its update of round {number} is safe; it did not count"


def _accepted_again(found: Evidence) -> tuple[int, int]:
    """How many updates came twice within one life of the coordinator, and how many once more after
    a start: only the end of a life takes what is not safe."""
    before: set[Trained] = set()
    now: set[Trained] = set()
    within = after_a_start = 0
    for line in counted(found.journal):
        if line["event"] == "resumed":
            before, now = before | now, set()
        elif line["event"] == "update":
            which = (line["agent"], line["round"])
            within += which in now
            after_a_start += which in before - now
            now.add(which)
    return within, after_a_start


def _checkpoints(found: Evidence, whole: bool) -> Iterable[str]:
    """Best and last, and a round's tidy folder, are there when a run is `whole`."""
    rounds = [line for line in counted(found.journal) if line["event"] == "round"]
    for line in rounds:
        there = found.models.get(line["round"])
        if there not in (None, line["model"]):
            yield f"the checkpoint of round {line['round']} is not the one of the journal"
    for number in found.models.keys() - {line["round"] for line in rounds} - {0}:
        opened = any(
            line["event"] == "opened" and line["round"] == number for line in found.journal
        )
        if not opened:
            yield f"there is a checkpoint of round {number}, which never was"
    if rounds and rounds[-1]["round"] not in found.models:
        yield f"the checkpoint of round {rounds[-1]['round']} is missing"
    if rounds and whole:
        if found.last != rounds[-1]["model"]:
            yield "last.safetensors is not the last round's model"
        best = _best(rounds)
        if best is not None and found.best != best["model"]:
            yield "best.safetensors is not the best round's model"
    if found.replayed is False:
        yield "the run computed again without faults gives another model"


def _best(rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of those that were measured to be chosen: each is compared with the best one before it, and
    only where the parts they were measured on differ by no more than a twentieth. The larger
    part counts otherwise."""
    best, least, examples = None, 0.0, 0
    for line in rounds:
        score = line.get("metrics") or {}
        primary = score.get("primary", {"name": "loss", "lower": True})
        part = score.get("validation") or {}
        figure = (part.get("values") or {}).get(primary["name"])
        if figure is None or abs(figure) >= sys.float_info.max:  # it could not be computed
            continue
        worth, here = figure if primary.get("lower") else -figure, part.get("examples", 0)
        alike = min(here, examples) >= 0.95 * max(here, examples)
        if best is None or (worth < least if alike else here > examples):
            best, least, examples = line, worth, here
    return best


def _training(found: Evidence, own_faults: dict[str, int], lost: int) -> Iterable[str]:
    committed = [line for line in counted(found.journal) if line["event"] == "round"]
    for line in committed:
        for agent in line["participants"]:
            if not found.trained[agent, line["round"]]:
                yield f"{agent} says that it never trained round {line['round']}, which counts it"
    for counts, what in ((found.trained, "trained"), (found.began, "began to train")):
        again: Counter[str] = Counter()
        for (agent, _), times in counts.items():
            again[agent] += max(0, times - 1)
        for agent, times in sorted(again.items()):
            if times > own_faults.get(agent, 0) + lost:
                rounds = sorted(r for (a, r), n in counts.items() if a == agent and n > 1)
                yield (
                    f"{agent} {what} {times} times in vain (rounds {rounds}), after "
                    f"{own_faults.get(agent, 0)} faults of its own"
                )


def spools(folder: Path, journal: list[dict[str, Any]]) -> list[str]:
    """Those of rounds that are committed: nobody needs their updates any more."""
    rounds = {line["round"] for line in journal if line["event"] == "round"}
    found = sorted(folder.glob("rounds/*/updates"))
    return [
        f"spool {path.relative_to(folder)}" for path in found if int(path.parent.name) in rounds
    ]


# What is left over -------------------------------------------------------------------------


def left_over(bed: Bed) -> list[str]:
    """Once everything was ended: processes, sockets, temporary files and locks of the bed."""
    found = [f"process {p.pid} {' '.join(_command(p))[-120:]}" for p in marked(bed.mark)]
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == bed.port:
            found.append(f"a listening socket on port {bed.port}")
    found += [str(path.relative_to(bed.folder)) for path in (bed.folder / "tmp").iterdir()]
    folders = [bed.state, *(bed.folder / name for name in bed.agents)]
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        what = kind(path)
        if what is not None:
            found.append(f"{what} {path.relative_to(bed.folder)}")
    return found


def kind(path: Path) -> str | None:
    """What is wrong with this path's being there, if anything is."""
    if path.is_socket():
        return "socket"
    if path.name.endswith("lock") and path.is_file():  # one stays as a file; held by nobody
        return "lock" if is_held(path) else None
    if _TEMPORARY.search(path.name):
        return "temporary file"
    return None


def is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
