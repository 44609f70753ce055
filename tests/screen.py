"""A terminal's screen, as far as our own output goes: what a reader sees after every write."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """Rows of text with the cursor; `struck` collects everything that was ever shown struck through.

    Knows the sequences that `unsay.report.stream` writes, and fails on any other.
    """

    def __init__(self, height: int = 1000) -> None:
        self.rows: list[str] = [""]
        self.row = self.column = 0
        self.height = height
        self.style = ""
        self.struck: list[str] = []

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match, f"a screen cannot show {text[at : at + 20]!r}"
            at = match.end()
            numbers, command, control, plain = match.groups()
            if command == "m":
                self.style = "" if numbers in ("", "0") else numbers
            elif command == "A":
                self.row -= int(numbers or 1)
                assert self.row >= max(0, len(self.rows) - self.height), "moved above the top of the screen"
            elif command == "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.row, self.column = self.row + 1, 0
                if self.row == len(self.rows):
                    self.rows.append("")
            elif plain:
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + plain + line[self.column + len(plain) :]
                self.column += len(plain)
                if self.style.split(";")[0] == "9":
                    self.struck.append(plain)
            else:
                raise AssertionError(f"unknown sequence {match.group()!r}")
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows).rstrip("\n")
