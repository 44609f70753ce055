"""Text we did not write, made safe to show: model output, notes, names and error messages.

Nothing is dropped: what would act on the reader's screen (control characters, terminal escapes, bidirectional
overrides, invisible characters) is spelled out instead.

    terminal("\\x1b[31mred")     # '␛[31mred'
    markdown("a|b <i>")         # 'a\\\\|b &lt;i&gt;'
"""

from __future__ import annotations

import re
import unicodedata

# Control, format (bidi, zero width), line and paragraph separators, halves of surrogate pairs, private use.
_ACTING = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
# Two format characters that ordinary words need: the joiners of Persian, Indic scripts and emoji.
_HARMLESS = {"\u200c", "\u200d"}

_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def terminal(text: str, *, keep: str = "\n\t") -> str:
    """Spell out every character that could act on a terminal or hide; those in `keep` pass."""
    if text.isprintable():
        return text
    return "".join(char if char in keep else _spelled(char) for char in text)


def line(text: str) -> str:
    """Make one line of it, spelled out as for a terminal."""
    return terminal(" ".join(text.split()), keep="")


def markdown(text: str) -> str:
    """Make one line of Markdown that shows exactly this text, inside a table cell too."""
    escaped = "".join(_HTML.get(char, char) for char in line(text))
    return _MARKDOWN.sub(lambda match: "\\" + match[0], escaped)


def html(text: str) -> str:
    """Escape text for a `<pre>` of a Markdown page: no tag, no formula, and no line of it that looks like a heading."""
    escaped = "".join(_HTML.get(char, char) for char in terminal(text)).replace("$", "&#36;")
    return re.sub(r"(?m)^#", "&#35;", escaped)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _spelled(char: str) -> str:
    if char in _HARMLESS or unicodedata.category(char) not in _ACTING:
        return char
    if char < "\x20":
        return chr(0x2400 + ord(char))
    if char == "\x7f":
        return "␡"
    return f"⟨U+{ord(char):04X}⟩"
