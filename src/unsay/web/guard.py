"""What may ask this server: a browser on this machine that shows pages of this server, by GET or HEAD.

A page elsewhere that guesses the port, or has its own name resolve to this machine (DNS rebinding), is refused before
anything is read. Every answer, also that to a mistake, carries the headers that keep a page from running or loading
what is not ours.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
METHODS = ("GET", "HEAD")
_HTTP_PORT = 80


def is_loopback(host: str) -> bool:
    """Say whether a name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_address(host: str) -> str:
    """Return a host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


class Guard:
    """Refuses what must not be answered, and adds the headers to what is."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        names = {in_address(name) for name in ("localhost", "127.0.0.1", "::1", host)}
        self._hosts = {f"{name}:{port}" for name in names} | (names if port == _HTTP_PORT else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refusal(scope)
        await (self._app if refused is None else refused)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return PlainTextResponse("This server answers only to its own address on this machine.\n", 421)
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in headers.getlist("origin")):
            return PlainTextResponse("Pages of other sites are not answered.\n", 403)
        if self._is_foreign(headers):
            return PlainTextResponse("Requests of other sites are not answered.\n", 403)
        if scope["method"] not in METHODS:
            return PlainTextResponse("Nothing can be changed here.\n", 405, {"Allow": ", ".join(METHODS)})
        return None

    @staticmethod
    def _is_foreign(headers: Headers) -> bool:
        """Say whether another site asks, other than by a link that somebody followed."""
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed
