"""Take what is secret out of texts before they are written or shown: tokens in the environment, passwords in addresses.

A secret is the value of an environment variable whose name says so (`HF_TOKEN`, `WANDB_API_KEY`, `DB_PASSWORD`, …),
what stands before the `@` of an address, a parameter such as `?token=…`, an authorization header, and a token that is
known by its beginning (`hf_…`). Questions, answers and training rows are data and are never changed; an experiment
file that holds a secret is refused (`found_in`), so that none gets into them.

    redact("GET https://me:hunter22@host/x failed")       # 'GET https://[redacted]@host/x failed'
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO
from urllib.parse import quote

REDACTED = "[redacted]"

SHORTEST = 8
"""Characters of a value that counts as a secret: a shorter one stands in too many texts by chance."""

_NAME = re.compile(r"(?:^|_)(?:API)?(?:TOKEN|KEY|SECRET|PASSPHRASE|CREDENTIAL)S?(?:_ID)?$|PASSWORD$|PASSWD$", re.I)
# One slash is what becomes of an address that was taken for a path.
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]+:/{1,2})([^\s/?#\"'<>\\]*)@", re.I)
_PARAMETER = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|passw(?:or)?d|signature|credential|auth)[\w.-]*=)[^&;#\s\"'<>\\]+", re.I
)
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?\w+\s+|\bbearer\s+(?=\S{16}))[\w.~+/=-]+", re.I)
_KNOWN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,})"
)


def secrets(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the secret values of the environment (this process's unless given) with the variable each is from.

    Values of fewer than `SHORTEST` characters and paths of files count as no secrets; each long line of a value is one
    of its own, as a key of several lines may be shown in part.
    """
    found: dict[str, str] = {}
    for name, value in (os.environ if environment is None else environment).items():
        if _NAME.search(name):
            for part in (value, *value.splitlines()):
                if len(part.strip()) >= SHORTEST and not os.path.exists(part.strip()):  # noqa: PTH110 - may be no path
                    found.setdefault(part.strip(), name)
    return found


def redact(text: str) -> str:
    """Return a text without its secrets."""
    return _redact(text, _forms(secrets()))


def redacted(value: Any) -> Any:
    """Return what JSON can hold with every text in it redacted, names of members included."""
    return _redacted(value, _forms(secrets()), {})


def found_in(text: str, known: Mapping[str, str]) -> str | None:
    """Say what secret a text of an experiment file holds, given those of the environment; None where it holds none."""
    for value, name in known.items():
        if value in text:
            return (
                f"holds the value of the environment variable {name}, by its name a secret, which would be written "
                "down with the results; take it out, or give the variable another name"
            )
    if any(match[2] != "git" for match in _ADDRESS.finditer(text)) or _PARAMETER.search(text):
        return (
            "holds a password in an address, which would be written down with the results; take it out (HF_TOKEN and "
            "~/.netrc are read without being written down)"
        )
    if _KNOWN.search(text):
        return "holds an access token, which would be written down with the results; put it into the environment"
    return None


def _redact(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        if form in text:
            text = text.replace(form, REDACTED)
    if "@" in text:
        text = _ADDRESS.sub(rf"\1{REDACTED}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1{REDACTED}", text)
    return _KNOWN.sub(REDACTED, _HEADER.sub(rf"\1{REDACTED}", text))


def _redacted(value: Any, forms: Sequence[str], seen: dict[str, str]) -> Any:
    if isinstance(value, str):
        if value not in seen:  # names of members come again and again
            seen[value] = _redact(value, forms)
        return seen[value]
    if isinstance(value, Mapping):
        return {_redacted(key, forms, seen): _redacted(item, forms, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, forms, seen) for item in value]
    return value


def _forms(values: Iterable[str]) -> list[str]:
    """Return the ways in which secrets may stand in a text, the longest first: one may be a part of another."""
    forms: set[str] = set()
    for value in values:
        escaped = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1])
        forms |= {value, *escaped, quote(value), quote(value, safe="")}
    return sorted(forms, key=len, reverse=True)


class RedactedStream(io.TextIOBase):
    """Standard output or error of a process whose output is kept: whole lines, redacted.

    What is flushed before its line ends is redacted as it stands.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            self._waiting += text
            cut = max(self._waiting.rfind("\n"), self._waiting.rfind("\r")) + 1
            if cut:
                whole, self._waiting = self._waiting[:cut], self._waiting[cut:]
                self._stream.write(redact(whole))
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, ""
            self._stream.write(redact(waiting))
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True


def redact_output() -> None:
    """Redact what this process writes to standard output and error from now on."""
    sys.stdout, sys.stderr = RedactedStream(sys.stdout), RedactedStream(sys.stderr)
