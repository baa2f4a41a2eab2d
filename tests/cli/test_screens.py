"""The screens at 60, 80 and 120 columns and in a pipe: no name, state or figure is cut."""

import io

import pytest
from rich.console import Console

from flctl.cli import runs
from flctl.cli.options import At
from flctl.coordinator.front.views import agent_status
from flctl.core.events import AttemptFailed, RoundOpened
from flctl.core.roster import Member
from flctl.core.story import Story
from flctl.core.stream import AgentFailed, Published, RunBegun
from flctl.terminal.live import Dashboard
from flctl.terminal.output import ENDLESS, show, table
from flctl.terminal.status import picture
from flctl.terminal.tables import NAME_BESIDE

WIDTHS = (60, 80, 120)
WARD = "heart-monitor-ward-7-bed-12-second-floor"
REASON = (
    "worker died: signal 9 (killed: out of memory?) while it trained batch 17 of 120; the last "
    "lines of its log: DefaultCPUAllocator: can't allocate memory: you tried to allocate "
) + ", ".join(f"{n} bytes" for n in range(268435456, 268435470))
SCORE = {"values": {"loss": 0.1234, "accuracy": 0.9876, "macro_f1": 0.7654}}
RUNS = (
    {"run": "ecg-20261127-102328", "state": "finished", "reason": "", "metrics": SCORE},
    {"run": "ecg-20261127-102329", "state": "paused", "reason": REASON, "metrics": SCORE},
    {"run": WARD, "state": "running", "reason": "", "metrics": None},
)
SUMMARIES = [{**run, "round": 3, "rounds": 300, "started": 1.79e9} for run in RUNS]


def lines(renderable, width):
    console = Console(file=io.StringIO(), width=width, height=24, color_system=None,
                      force_terminal=True)  # fmt: skip
    console.print(renderable)
    shown = console.file.getvalue().splitlines()
    assert max(map(len, shown)) <= width
    return shown


def agent(name, **traits):
    live = {
        "rtt_ms": 3.5, "temperature_c": 50.0, "memory_used_bytes": 2**20, "state": "ready",
        "memory_total_bytes": 2**30, "load_1m": 0.75, "throttled": ["under-voltage"],
        "version": "0.4.0", "kind": "Raspberry Pi 4 Model B Rev 1.5", "last_seen_s": 1.0,
    }  # fmt: skip
    return {**agent_status(Member(name), 0.0), **live, **traits}


def fleet():
    head = {"endpoint": "tcp://0.0.0.0:7700", "version": "0.4.0", "uptime_s": 1.0, "run": None}
    agents = [agent(f"pi-{n:02}") for n in range(30)]
    agents.append(agent(WARD, state="training", progress=[117, 1200], cordoned=True,
                        last_error=REASON))  # fmt: skip
    agents.append(agent("x" * 60, state="evaluating", last_error=REASON))
    return picture({"coordinator": head, "agents": agents, "waiting": []})


@pytest.mark.parametrize("width", WIDTHS)
def test_status_shows_every_name_and_state(width):
    """A long error and a device yield; what is left out is named."""
    shown = lines(fleet(), width)
    for n in range(30):
        row = next(line for line in shown if line.startswith(f"pi-{n:02} "))
        assert row.split()[1] == "ready"
    assert any(line.startswith(WARD) for line in shown)
    assert any(line.startswith("x" * 60) for line in shown)
    assert any("training 117/1200, cordoned" in line for line in shown)
    assert any("evaluating" in line for line in shown)
    assert any("worker died" in line for line in shown)
    left_out = [line for line in shown if line.startswith("hidden for lack of space: ")]
    if width < 120:
        assert "device" in " ".join(shown[shown.index(left_out[0]) :])


def test_a_name_longer_than_its_column_has_a_line_of_its_own():
    """The other rows stay in one line."""
    made = table("agent", "state", ">loss", "device", yields=("device",))
    made.add_row("pi-01", "ready", "0.25", "Raspberry Pi 4 Model B Rev 1.5 aarch64")
    made.add_row(WARD, "training", "0.50", "-")
    head, first, name, rest, left_out = lines(made, 45)
    assert first.split() == ["pi-01", "ready", "0.25"]
    assert (name, rest.split()) == (WARD, ["training", "0.50"])
    assert rest.index("training") == head.index("state") >= NAME_BESIDE
    assert left_out == "hidden for lack of space: device"


def test_a_column_without_a_figure_is_left_out_first():
    made = table("agent", ">temp", ">link", yields=("link", "temp"))
    made.add_row("pi-01", "-", "3.5 ms")
    assert lines(made, 14)[1].split() == ["pi-01", "3.5", "ms"]


def test_what_does_not_fit_at_all_is_folded():
    """A key is whole at any width."""
    made = table("name", "key")
    made.add_row("pi-01", "k" * 52)
    assert sum(line.count("k") for line in lines(made, 30)[1:]) == 52


@pytest.fixture
def listed(monkeypatch):
    """Has `runs list` show SUMMARIES at this width; 0: in a pipe."""

    def shown(width):
        console = Console(file=io.StringIO(), width=width or ENDLESS, color_system=None,
                          force_terminal=bool(width))  # fmt: skip
        monkeypatch.setattr("flctl.terminal.output.terminal", lambda: console)
        monkeypatch.setattr(runs, "summaries", lambda _: SUMMARIES)
        monkeypatch.setenv("FLCTL_STATE", "/nowhere")
        runs.list_(At())
        return console.file.getvalue().splitlines()

    return shown


@pytest.mark.parametrize("width", WIDTHS)
def test_runs_list_keeps_its_figures_beside_a_long_reason(width, listed):
    shown = listed(width)
    assert max(map(len, shown)) <= width
    for run in RUNS[:2]:
        row = next(line for line in shown if line.startswith(run["run"]))
        assert row.split()[1:5] == [run["state"], "3/300", "0.1234", "0.9876"]
    assert any(line.startswith(WARD) for line in shown)
    assert any("worker died" in line for line in shown)
    assert not any(REASON in line for line in shown)


def test_in_a_pipe_all_is_there_and_nothing_is_padded(listed):
    """A row is one line, whatever its reason."""
    head, first, second, third = listed(0)
    assert not any(line.endswith(" ") for line in (head, first, second, third))
    assert second.endswith(REASON)
    assert len(first) < 110 and "0.7654" in first and "2026" in third


def test_a_note_of_any_length_is_whole_in_a_pipe(capsys):
    made = table("agent", "~note")
    made.add_row("pi-01", REASON * 20)
    show(made)
    assert capsys.readouterr().out.splitlines()[1].endswith(REASON * 20)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [4, 30])
def test_the_live_view_shows_names_and_states(width, count):
    """Within the terminal's height, at any width, with errors of any length."""
    story = Story(0.0)
    names = [WARD, *(f"pi-{n:02}" for n in range(count))]
    opened = {"round": 1, "attempt": 1, "base": "a" * 64, "need": 1}
    for now, event in (
        (0.0, RunBegun(run=WARD, round=0, rounds=300, task="ecg")),
        (1.0, RoundOpened(at=1.0, invited=tuple(names), **opened)),
        *(
            (2.0, AgentFailed(round=1, agent=name, kind="worker died", message=REASON))
            for name in (WARD, "pi-00", "pi-01")
        ),
        (3.0, AttemptFailed(at=3.0, round=1, attempt=2, reason=REASON[:200])),
    ):
        story.apply(Published(WARD, event), now)
    shown = lines(Dashboard(story, lambda: 9.0), width)
    assert len(shown) <= 24
    at = next(n for n, line in enumerate(shown) if line.startswith(WARD) and n > 3)
    assert "failed" in shown[at] + shown[at + 1]
    assert any(line.split()[:2] == ["pi-01", "failed"] for line in shown)
    assert any(line.startswith("round 1/300 ") and " gone" in line for line in shown)
