"""Tables that fit the width they are shown at: notes, then whole columns yield, nothing is cut."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from flctl.errors import printable

GAP, INDENT = 2, 2
NAME_BESIDE = 24
"""Characters of the first column for which others yield; a longer name gets a line of its own."""
NOTE_BESIDE = 32
"""Characters that a note needs next to its row; with less it is printed below."""
NOTE_LINES = 3
"""Maximum lines of an unlimited note next to its row; a longer one is printed below it."""
NARROWEST = 8
"""Characters that a column of text keeps when it is folded."""


class Table:
    """Rows of cells, each of them one line where there is room.

    `columns`: their headings; `>` stands before one of numbers, `~` before one of notes.
    `yields`: headings of the columns that are left out first where there is no room for all;
    with `tells`, a last line names them. What still does not fit is folded, not cut; only of a
    note no more than `note_lines` are shown on a terminal.
    """

    def __init__(
        self,
        columns: Sequence[str],
        yields: Sequence[str] = (),
        note_lines: int | None = 2,
        tells: bool = True,
    ) -> None:
        names = [name[1:] if name[:1] in (">", "~") else name for name in columns]
        self._heads = [Text(printable(name, kept=""), style="bold") for name in names]
        self._numbers = [name.startswith(">") for name in columns]
        self._note = next((i for i, name in enumerate(columns) if name.startswith("~")), None)
        self._yields = [names.index(name) for name in yields if name in names]
        self._note_lines, self._tells = note_lines, tells
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Text from an agent can neither start a row of its own nor control the terminal."""
        self._rows.append([_harmless(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        widths, left_out = self._fit(width)
        below = self._note if self._note not in widths else None
        heads = [self._heads] if any(head.plain for head in self._heads) else []
        for row in (*heads, *self._rows):
            if row[0].cell_len > widths[0]:
                yield from map(_one_line, _wrapped(console, row[0], width, None))
                row = [Text(), *row[1:]]  # noqa: PLW2901
            yield from self._lines(console, row, widths)
            if below is not None and row is not self._heads and row[below]:
                for line in _wrapped(console, row[below], width - INDENT, self._note_lines):
                    yield _one_line(Text(" " * INDENT).append_text(line))
        if left_out and self._tells:
            names = ", ".join(self._heads[i].plain for i in sorted(left_out))
            yield Text(f"hidden for lack of space: {names}", style="dim")

    def _fit(self, width: int) -> tuple[dict[int, int], list[int]]:
        """The width of each column that is shown, and which ones are left out."""
        every = [self._heads, *self._rows]
        widths = {i: max(row[i].cell_len for row in every) for i in range(len(self._heads))}
        left_out: list[int] = []
        if _total(widths) <= width:
            return widths, left_out
        note = widths.pop(self._note) if self._note is not None else 0
        names, widths[0] = widths[0], min(widths[0], NAME_BESIDE)
        for i in sorted(self._yields, key=self._says_something):
            if _total(widths) <= width:
                break
            del widths[i]
            left_out.append(i)
        texts = [i for i in widths if not self._numbers[i]]
        while texts and _total(widths) > width:
            widest = max(texts, key=widths.__getitem__)
            if widths[widest] <= NARROWEST:
                break
            widths[widest] -= 1
        widths[0] += max(min(width - _total(widths), names - widths[0]), 0)
        room = width - _total(widths) - GAP
        lines = self._note_lines or NOTE_LINES
        if note and (note <= room or (room >= NOTE_BESIDE and note <= 0.8 * room * lines)):
            assert self._note is not None
            widths[self._note] = min(note, room)
        return widths, left_out

    def _says_something(self, i: int) -> bool:
        return any(row[i].plain not in ("", "-") for row in self._rows)

    def _lines(
        self, console: Console, row: Sequence[Text], widths: dict[int, int]
    ) -> Iterator[Text]:
        cells = {
            i: _wrapped(console, row[i], width, self._note_lines if i == self._note else None)
            for i, width in widths.items()
        }
        for at in range(max(map(len, cells.values()))):
            line = Text()
            for i, width in widths.items():
                part = cells[i][at] if at < len(cells[i]) else Text()
                blank = " " * (width - part.cell_len)
                line.append(blank if self._numbers[i] else "").append_text(part)
                line.append(("" if self._numbers[i] else blank) + " " * GAP)
            yield _one_line(line)


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _harmless(cell: str | Text) -> Text:
    if isinstance(cell, str):
        return Text(printable(cell, kept=""))
    if not cell.plain.isprintable():  # a styled part of it counts its characters
        return Text(printable(cell.plain, kept=""), style=cell.style)
    return cell


def _wrapped(console: Console, text: Text, width: int, most: int | None) -> list[Text]:
    """Lines of at most `width`; of those beyond `most` only … is left."""
    if text.cell_len <= width:
        return [text]
    lines = list(text.wrap(console, width, overflow="fold"))
    for line in lines:
        line.rstrip()
    if most is not None and len(lines) > most:
        last = lines[most - 1]
        whole, room = last.plain, width - 2  # a name that does not fit goes as a whole
        if last.cell_len > room:
            at = whole.rfind(" ")
            last.right_crop(len(whole) - at) if at > 0 else last.truncate(room)
        last.append(" …")
    return lines[:most]


def _one_line(line: Text) -> Text:
    line.rstrip()
    line.no_wrap, line.overflow = True, "ignore"
    return line
