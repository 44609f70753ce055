"""JSON over HTTP to one server: kept connections, time-outs, retries with back-off, errors that say what to do.

Plain http.client: no proxies, no redirects, so a key goes to the named server and nowhere else. Safe to be used by
several threads, each of which gets a connection of its own.

    Connection("http://127.0.0.1:8000/v1").post("completions", {"prompt": [1, 2, 3]})
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Mapping
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from unsay.backend import KEY_VARIABLE, wrong_url
from unsay.errors import ServerError

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds between tries: doubled each time, up to the longest."""
TIMEOUT_COUNTS = 3
"""A request that took too long counts as so many tries: the next one will hardly be faster."""
SHOWN = 300
"""Characters of a server's own words in a message."""

_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class Closed(Exception):  # noqa: N818 - a state, not a mistake
    """The connection was closed while a request was on its way."""


class RefusedError(ServerError):
    """The server answers, and will not do what it is asked for."""


class Connection:
    """One server. `retries` counts the requests that had to be sent again."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 600.0,
        tries: int = TRIES,
        gone: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Raise ServerError for an address that is none. `gone` says why there is no use in trying again."""
        reason = wrong_url(url)
        if reason is not None:
            raise ServerError(f"server {_without_password(url)!r} {reason}")
        self.url = url.rstrip("/")
        self.retries = 0
        self._key = key
        self._timeout = timeout
        self._tries = tries
        self._gone = gone
        self._parts = urlsplit(self.url)
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def get(self, path: str) -> Any:
        """Return the JSON at a path below the address; raises ServerError."""
        return self._answer("GET", f"{self._parts.path}/{path}", None)

    def get_beside(self, path: str) -> Any:
        """Return the JSON at a path of the server beside the address's own; raises ServerError."""
        return self._answer("GET", f"{self._parts.path.rpartition('/')[0]}/{path}", None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON and return the JSON that comes back; raises ServerError."""
        return self._answer("POST", f"{self._parts.path}/{path}", json.dumps(body).encode())

    def close(self) -> None:
        """End every request that is on its way: its thread gets `Closed`. Nothing can be asked any more."""
        self._closed.set()
        with self._lock:
            waiting = list(self._open)
        for connection in waiting:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it

    def rest(self) -> None:
        """Let go of all kept connections; to be called when no request is on its way."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._own = threading.local()

    def _answer(self, method: str, target: str, body: bytes | None) -> Any:
        left, wait = self._tries, FIRST_WAIT
        while True:
            asked_to_wait = 0.0
            try:
                status, headers, content = self._once(method, target, body)
            except TimeoutError:
                left -= TIMEOUT_COUNTS
                problem = f"no answer within {self._timeout:g} seconds"
            except (OSError, http.client.HTTPException) as error:
                left -= 1
                problem = str(error) or type(error).__name__
            else:
                if status == 200:
                    return self._json(content, target)
                said = self._said(content)
                if status not in (408, 429) and status < 500:
                    raise self._refusal(status, said, target)
                left -= 1
                problem = f"HTTP {status}{said}"
                asked_to_wait = _seconds(headers.get("Retry-After"))
            if self._closed.is_set():
                raise Closed
            reason = self._gone()
            if reason is not None:
                raise ServerError(reason)
            if left <= 0:
                raise ServerError(
                    f"expected an answer from the server at {self.url}, got: {problem}; check that it runs there and "
                    "has the power it needs, then run the same command again: finished answers are kept"
                )
            self.retries += 1
            # Spread out, so that many threads do not all come back at once.
            if self._closed.wait(max(asked_to_wait, wait * random.uniform(0.75, 1.25))):
                raise Closed
            wait = min(2 * wait, LONGEST_WAIT)

    def _once(self, method: str, target: str, body: bytes | None) -> tuple[int, Message, bytes]:
        connection, kept = self._connection()
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException as error:
            self._drop(connection)
            if kept and isinstance(error, _STALE) and not self._closed.is_set():
                return self._once(method, target, body)  # the server had closed it meanwhile: nothing is wrong
            raise
        if response.will_close:
            self._drop(connection)
        return response.status, response.headers, content

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return this thread's connection, and whether it was used before."""
        if self._closed.is_set():
            raise Closed
        kept: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if kept is not None:
            return kept, True
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        made = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout)
        with self._lock:
            self._open.add(made)
        self._own.connection = made
        return made, False

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._own.connection = None
        with self._lock:
            self._open.discard(connection)

    def _json(self, content: bytes, target: str) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise ServerError(
                f"expected JSON from {self._parts.hostname}{target}, got{self._said(content)}; "
                "check that the address is that of an OpenAI-compatible server, `/v1` included"
            ) from None

    def _refusal(self, status: int, said: str, target: str) -> RefusedError:
        where = f"{self.url} ({target})"
        if status in (401, 403):
            return RefusedError(
                f"expected to be let in by the server at {where}, got HTTP {status}{said}; put its key into the "
                f"environment variable {KEY_VARIABLE}"
            )
        if status == 404:
            return RefusedError(
                f"expected an OpenAI-compatible server at {where}, got HTTP 404{said}; check the address, `/v1` "
                "included, and the model's name"
            )
        return RefusedError(f"expected the server at {where} to take the request, got HTTP {status}{said}")

    def _said(self, content: bytes) -> str:
        """Return what the server says about an error, for the end of a message; never the key."""
        text = content.decode("utf-8", "replace").strip()
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            inner = value.get("error", value)
            inner = inner if isinstance(inner, dict) else {"message": inner}
            text = str(inner.get("message") or inner.get("detail") or text)
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "…")
        return f" ({text[:SHOWN]})" if text else ""


def _seconds(value: str | None) -> float:
    """Return how long a server asks to wait; a date counts as nothing said."""
    try:
        return min(max(float(value or 0), 0.0), 2 * LONGEST_WAIT)
    except ValueError:
        return 0.0


def _without_password(url: str) -> str:
    """Return an address for a message: what stands before an @ may be a password."""
    scheme, found, rest = url.partition("://")
    if "@" in rest:
        rest = "…@" + rest.rpartition("@")[2]
    return (f"{scheme}{found}{rest}" if found else scheme.rpartition("@")[2]).partition("?")[0]
