"""Answers on a screen while they are written: what is taken back is struck through, and goes.

Two ways to show the same events (see `unsay.answering`): `Live` draws on a terminal and redraws what changes; `Plain`
is for pipes and files, where nothing can be unwritten: it holds back what may still be taken back. Text from a model is
spelled out, never interpreted.

    view = Live(sys.stdout, width=80, height=24)
    for event in events: view.take(event)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TextIO

from unsay.report.escape import terminal

Kind = Literal["kept", "taken back", "undo"]
Run = tuple[str, Kind]

PAUSE = 0.4
"""Seconds that what was taken back stays on the screen, struck through."""
TAB = 4
_UP, _ERASE, _RESET = "\x1b[{}A", "\x1b[J", "\x1b[0m"


class View(Protocol):
    """Shows one answer. `close` ends it, however far it is."""

    def take(self, event: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass
class Cell:
    """What one token shows."""

    text: str
    kind: Kind = "kept"


class Cells:
    """An answer as the events told it so far: survivors, and between them what was taken back and the undos.

    Without `keep` the latter two are there only until the next token, or the end, comes.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.cells: list[Cell] = []
        self.keep = keep
        self.settled = 0
        """How many survivors are final."""

    @property
    def survivors(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "kept"]

    @property
    def retracting(self) -> bool:
        """Whether something is shown that will go."""
        return not self.keep and any(cell.kind != "kept" for cell in self.cells)

    def take(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "emit":
            self.settle()
            self.cells.append(Cell(event["text"]))
        elif event["event"] == "retract":
            left = int(event["count"])
            for cell in reversed(self.cells):
                if left and cell.kind == "kept":
                    cell.kind = "taken back"
                    left -= 1
            self.cells.append(Cell(event["token"], "undo"))
        elif event["event"] == "commit":
            self.settled = int(event["count"])

    def settle(self) -> None:
        """Let go of what was taken back."""
        if not self.keep:
            self.cells = self.survivors

    def finish(self, visible: str) -> None:
        """Show the answer as it ended: a stop string and what follows it are cut, a waiting character is there."""
        self.settle()
        if self.keep and any(cell.kind != "kept" for cell in self.cells):
            return
        self.cells = [Cell(visible)]

    def runs(self) -> list[Run]:
        """Return the text in pieces of one kind each, safe to print."""
        joined: list[tuple[list[str], Kind]] = []
        for cell in self.cells:
            if joined and joined[-1][1] == cell.kind:
                joined[-1][0].append(cell.text)
            else:
                joined.append(([cell.text], cell.kind))
        return [(terminal("".join(texts)), kind) for texts, kind in joined]


class Live:
    """Draws an answer on a terminal, of which it redraws the rows that changed.

    Rows that have left the screen at the top cannot change: where that would be needed, it says so and writes on below.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        width: int,
        height: int,
        keep: bool = False,
        colour: bool | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.out = out
        self.width = max(width, 10)
        self.height = max(height, 3)
        self.styles = _styles("NO_COLOR" not in os.environ if colour is None else colour)
        self.cells = Cells(keep=keep)
        self.wait = wait
        self.shown: list[str] = []
        self.top = 0
        """Rows before this one are out of reach."""

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind in ("emit", "end") and self.cells.retracting:
            self.wait(PAUSE)
        if kind == "end":
            self.cells.finish(event["visible"])
        else:
            self.cells.take(event)
        if kind != "commit":
            self._draw()

    def close(self) -> None:
        self.cells.settle()
        self._draw()
        self.out.write("\n" if self.shown else "")
        self.out.flush()

    def _draw(self) -> None:
        rows = [row for line in _lines(self.cells.runs()) for row in _rows(line, self.width - 1, self.styles)]
        same = _common(self.shown, rows)
        if same == len(self.shown) == len(rows):
            return
        last = len(self.shown) - 1
        self.top = max(self.top, len(self.shown) - self.height + 1)
        if self.cells.retracting and len(rows) > self.top:
            same = max(same, self.top)  # struck through as far as can be reached
        if same < self.top:
            note = "(what is above was taken back from here on)"
            self.out.write(f"\n{self.styles['undo']}{note}{_RESET}\n" + "\n".join(rows[same:]))
            self.top = same
        elif not self.shown:
            self.out.write("\n".join(rows))
        elif same == len(self.shown):
            self.out.write("\n" + "\n".join(rows[same:]))
        elif same == last and len(rows) > last and rows[last].startswith(self.shown[last]):
            self.out.write("\n".join([rows[last][len(self.shown[last]) :], *rows[last + 1 :]]))
        else:
            up = last - same
            self.out.write((_UP.format(up) if up else "") + "\r" + _ERASE + "\n".join(rows[same:]))
            if same == len(rows) and same:  # the rows below are gone: the next one begins where the last one ended
                self.out.write(_UP.format(1) + "\r" + _ERASE + rows[-1])
        self.shown = rows
        self.out.flush()


class Plain:
    """Writes what is final, as soon as it is; with `keep` all of it at the end, what was taken back in `[-…-]`.

    `stop` are the strings that end an answer and are cut off it: what may still become one waits, too.
    """

    def __init__(self, out: TextIO, *, keep: bool = False, stop: Sequence[str] = ()) -> None:
        self.out = out
        self.cells = Cells(keep=keep)
        self.stop = stop
        self.written = 0

    def take(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "end":
            self.cells.finish(event["visible"])
            text = "".join(_marked(self.cells.runs()))
        else:
            self.cells.take(event)
            if self.cells.keep or event["event"] != "commit":
                return
            final = self.cells.survivors[: self.cells.settled]
            if self.stop:  # the newest token may hold a stop string, those before it the beginning of one
                final = final[: len(self.cells.survivors) - 1]
            text = terminal("".join(cell.text for cell in final))
            held = max((len(terminal(each)) - 1 for each in self.stop), default=0)
            text = text[: max(0, len(text) - held)]
        if len(text) > self.written:
            self.out.write(text[self.written :])
            self.written = len(text)
            self.out.flush()

    def close(self) -> None:
        self.out.write("\n")
        self.out.flush()


def _marked(runs: Sequence[Run]) -> Iterator[str]:
    struck = False
    for text, kind in runs:
        if (kind == "taken back") != struck:
            yield "-]" if struck else "[-"
            struck = not struck
        yield text
    if struck:
        yield "-]"


def _styles(colour: bool) -> dict[Kind, str]:
    return {
        "kept": "",
        "taken back": "\x1b[9;31m" if colour else "\x1b[9m",
        "undo": "\x1b[35m" if colour else "\x1b[2m",
    }


def _lines(runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Cut runs at line breaks; there is at least one line."""
    lines: list[list[Run]] = [[]]
    for text, kind in runs:
        first, *others = text.replace("\t", " " * TAB).split("\n")
        lines[-1].append((first, kind))
        lines += [[(other, kind)] for other in others]
    return [tuple(line) for line in lines]


@lru_cache(maxsize=4096)
def _wrapped(line: tuple[Run, ...], width: int) -> tuple[tuple[Run, ...], ...]:
    """Break a line into rows of at most `width` columns, behind a space where there is one."""
    from rich.cells import get_character_cell_size

    cells = [(char, kind, get_character_cell_size(char)) for text, kind in line for char in text]
    rows: list[tuple[Run, ...]] = []
    start = 0
    while True:
        end, used, space = start, 0, None
        while end < len(cells) and used + cells[end][2] <= width:
            used += cells[end][2]
            end += 1
            if cells[end - 1][0] == " ":
                space = end
        if end < len(cells):
            end = space if space is not None and cells[end][0] != " " else max(end, start + 1)
        row: list[tuple[list[str], Kind]] = []
        for char, kind, _ in cells[start:end]:
            if row and row[-1][1] == kind:
                row[-1][0].append(char)
            else:
                row.append(([char], kind))
        rows.append(tuple(("".join(chars), kind) for chars, kind in row))
        start = end
        if start >= len(cells):
            return tuple(rows)


def _rows(line: tuple[Run, ...], width: int, styles: Mapping[Kind, str]) -> Iterator[str]:
    for row in _wrapped(line, width):
        yield "".join(text if kind == "kept" else f"{styles[kind]}{text}{_RESET}" for text, kind in row)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )
