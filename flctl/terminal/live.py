"""The live view of a run on a terminal: the round, each agent, the figures so far."""

import io
import math
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from flctl.core.metrics import labels
from flctl.core.story import Doing, RoundLine, Story
from flctl.formats import figure, span
from flctl.terminal.tables import NAME_BESIDE, Table

ROUNDS_SHOWN = 5
BAR_WIDTH = 24
NARROWEST_BAR = 8
SPARKS = "▁▂▃▄▅▆▇█"
STYLES = {
    "waiting": "dim",
    "training": "cyan",
    "done": "green",
    "rejected": "red",
    "failed": "red",
    "retrying": "yellow",
    "lost": "red",
}
_URGENT = ("failed", "rejected", "lost", "retrying", "training", "waiting", "done")


class Dashboard:
    """Draws `story` as it is at the moment of drawing."""

    def __init__(self, story: Story, clock: Callable[[], float] = time.monotonic) -> None:
        self.story = story
        self._clock = clock

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._clock()
        # A long name of the run and blank lines take eight, a message one for each of its lines.
        done = len(self.story.done[-ROUNDS_SHOWN:])
        taken = 8 + (done + 2 if done else 0) + -(-len(self.story.message) // options.max_width)
        room = max((options.max_height or console.height) - taken, 3)
        parts: list[RenderableType] = [header(self.story, now, options.max_width), Text()]
        if self.story.agents and not self.story.ended:
            parts += [agents(self.story, room), Text()]
        elif not self.story.ended and not self.story.message:
            what = "waiting for the agents …" if self.story.run else "making the first model …"
            parts += [Text(what, style="dim")]
        if self.story.done:
            parts += [rounds(self.story.done[-ROUNDS_SHOWN:], len(str(self.story.rounds)))]
            parts += [trend(self.story, options.max_width)]
            parts += [Text(text, style="dim") for text in measured_on(self.story.done)]
        if self.story.message and self.story.ended != "finished":
            style = "red" if self.story.ended else "yellow"
            until = self.story.waits_until
            left = "" if until in (None, math.inf) else f", for {span(max(0.0, until - now))} more"
            parts += [Text(self.story.message + left, style=style)]
        yield Group(*parts)


def live_view(story: Story, console: Console) -> Live:
    """Shows the dashboard while the block runs; the last picture stays."""
    return Live(Dashboard(story), console=console, refresh_per_second=8, vertical_overflow="crop")


def as_html(story: Story) -> str:
    """The dashboard for a notebook, in the colours of its own text."""
    console = Console(file=io.StringIO(), record=True, force_jupyter=False, width=100, height=60)
    console.print(Dashboard(story))
    form = '<pre style="line-height: 1.25">{code}</pre>'
    return console.export_html(inline_styles=True, code_format=form)


def header(story: Story, now: float, width: int) -> RenderableType:
    """The run, and how far it is."""
    title = Text.assemble(
        ("flctl ", "bold"), (story.run or "starting …", "bold cyan" if story.run else "dim")
    )
    for name, value in (("task", story.task), ("agents", len(story.agents) or story.expected)):
        if value:
            title.append(f"  {name} ", "dim").append(str(value))
    if not story.rounds:
        return title
    at = max(story.open_round, story.reached)
    times = f"{span(now - story.began)} gone"
    left = story.time_left(now)
    if left is not None:
        times += f", about {span(left)} left"
    begin = f"round {at}/{story.rounds} "
    room = min(width - len(begin) - len(times) - 1, 40)
    share = story.share_done()
    line = Text(begin).append_text(bar(share, room, "green" if share == 1.0 else "cyan"))
    return Group(title, line.append(f" {times}", "dim"))


def bar(share: float, width: int, style: str) -> Text:
    """As many characters as there is room for; none where it could not be read."""
    if width < NARROWEST_BAR:
        return Text()
    full = round(share * width)
    return Text.assemble(("━" * full, style), ("━" * (width - full), "bright_black"))


def agents(story: Story, room: int) -> RenderableType:
    """A row for each agent of the open round; the busiest ones when there is not room for all."""
    named = sorted(story.agents.items())
    left_out: list[tuple[str, Doing]] = []
    ranked = sorted(named, key=lambda item: (_URGENT.index(item[1].state), item[0]))
    # A note and a long name may need a line of their own.
    lines = [1 + bool(doing.note) + (len(name) > NAME_BESIDE) for name, doing in ranked]
    if sum(lines) > room:
        fit = max(sum(used < room for used in accumulate(lines)), 1)
        named, left_out = sorted(ranked[:fit]), ranked[fit:]
    made = Table(
        ("agent", "doing", "batches", ">", ">loss", ">examples", "~"),
        yields=("batches", "examples", "loss"), note_lines=1, tells=False,
    )  # fmt: skip
    for name, doing in named:
        made.add_row(*_agent_row(name, doing))
    if not left_out:
        return made
    counts = {state: sum(d.state == state for _, d in left_out) for state in _URGENT}
    rest = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return Group(made, Text(f"… and {len(left_out)} more: {rest}", style="dim"))


def _agent_row(name: str, doing: Doing) -> Sequence[str | Text]:
    style = STYLES.get(doing.state, "")
    return (
        name,
        Text(doing.state, style=style),
        bar(doing.step / max(doing.steps, 1), BAR_WIDTH, style or "cyan"),
        f"{doing.step}/{doing.steps}" if doing.steps else "",
        figure(doing.loss) if doing.loss is not None else "",
        "" if doing.examples is None else str(doing.examples),
        Text(doing.note, style="dim"),
    )


def rounds(lines: Sequence[RoundLine], width: int = 2) -> RenderableType:
    """The figures of these rounds."""
    names = labels(line.score for line in lines)
    made = Table(
        (">round", *(f">{text}" for text in names.values()), ">agents", ">took"),
        yields=("took", "agents"), tells=False,
    )  # fmt: skip
    for line in lines:
        values = line.score.values if line.score is not None else {}
        made.add_row(
            f"{line.round:{width}d}",
            *(figure(values.get(name), 4) for name in names),
            f"{line.agents}" + (f" of {line.agents + len(line.missing)}" if line.missing else ""),
            span(line.seconds),
        )
    return made


def measured_on(lines: Sequence[RoundLine]) -> list[str]:
    """Which part the last figures are of."""
    scores = [line.score for line in lines if line.score is not None]
    return [f"figures on {score.part}, by {score.source}" for score in scores[-1:]]


def trend(story: Story, width: int) -> RenderableType:
    """The best round and its figure, and that figure of all rounds as a sparkline."""
    values, best = story.trend, story.best
    if best is None or best.score is None or len(values) < 2:
        return Text()
    said = Text.assemble(
        f"best round {best.round}: ",
        (f"{best.score.rule}, ", "dim"),
        figure(best.score.chosen, 4),
        ("   by round ", "dim"),
    )
    return said.append(sparkline(values, max(width - said.cell_len, 10)), "cyan")


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` bars between their least and their greatest."""
    if len(values) > width:
        step = len(values) / width
        values = [values[int((i + 1) * step) - 1] for i in range(width)]
    low, high = min(values), max(values)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in values)
