"""The viewer as a web application on this machine: addresses to pages, each also as `.json`.

app = application(Path("outputs"), "127.0.0.1", 8765)

/                        the lab                  /samples/FOLDER          items of an experiment
/experiments/FOLDER      one experiment           /sample/FOLDER?item=3     one item
/compare?of=…&of=…       two or more experiments  /index.json, ….json      the same as documents
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_to_bytes

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from unsay.errors import UnsayError
from unsay.redaction import redact
from unsay.store.index import Filter
from unsay.store.read import Entry
from unsay.web import pages, rendering
from unsay.web.guard import Guard, in_address
from unsay.web.looking import Looking, NotThereError
from unsay.web.pages import Document, OverviewQuery, SamplesQuery

DEFAULT_PORT = 8765
MOST_COMPARED = 8
_JSON = ".json"
_AS = "as"
"""`?as=json` asks for the document where `.json` belongs to the name of another experiment's folder."""
T = TypeVar("T")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _Lines(Convertor[str]):
    """The rest of a path, line breaks too: starlette's own ends at the first."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("lines", _Lines())


def application(lab: Path, host: str, port: int) -> ASGIApp:
    """Return the application that answers for one lab at one address."""
    site = _Site(Looking(lab))
    static = {
        name: Response(text, media_type=_TYPES[Path(name).suffix]) for name, text in rendering.static_files().items()
    }

    def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in static:
            raise HTTPException(404)
        return static[name]

    routes = [
        Route("/", _page("overview.html", site, site.overview)),
        Route("/index.json", _page("overview.html", site, site.overview)),
        Route("/compare", _page("comparison.html", site, site.comparison)),
        Route("/compare.json", _page("comparison.html", site, site.comparison)),
        Route("/experiments/{folder:lines}", _page("experiment.html", site, site.experiment)),
        Route("/samples/{folder:lines}", _page("samples.html", site, site.samples)),
        Route("/sample/{folder:lines}", _page("sample.html", site, site.sample)),
        Route("/static/{name}", file),
        Route("/favicon.ico", lambda request: static["icon.svg"]),  # what browsers ask for beside a document
    ]
    handlers: Mapping[Any, Any] = {
        NotThereError: lambda request, error: _said(request, 404, str(error)),
        UnsayError: lambda request, error: _said(request, 422, str(error)),
        OSError: lambda request, error: _said(request, 422, f"cannot read the lab: {error}"),
        Exception: lambda request, error: _said(request, 500, "The viewer failed here; its terminal says how."),
        HTTPException: lambda request, error: _said(request, error.status_code, "There is no such page."),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host, port)


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens; with no port given DEFAULT_PORT or, where that is taken, a free one.

    Raises UnsayError where a port that was asked for is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (DEFAULT_PORT, 0) if port is None else (port,):
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, wanted))
            bound.listen()
        except OSError as error:
            bound.close()
            why = error
        else:
            return bound
    raise UnsayError(
        f"cannot listen at {in_address(host)}:{port if port is not None else DEFAULT_PORT}: {why.strerror or why}. "
        "Give another --port, or none for a free one."
    )


def serve(lab: Path, bound: socket.socket, host: str) -> None:
    """Answer until interrupted."""
    import uvicorn

    app = application(lab, host, bound.getsockname()[1])
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none")
    uvicorn.Server(config).run([bound])


class _Site:
    """What the addresses mean."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking

    def overview(self, request: Request) -> Document:
        given = request.query_params
        names = {
            name: tuple(meant for value in given.getlist(name) if value for meant in _meant(value))
            for name in pages.FACETS
        }
        archived = {"only": True, "all": None}.get(given.get("archived", ""), False)
        wanted = Filter(**names, search=given.get("search", "").strip(), archived=archived)
        sort = given.get("sort", "id")
        query = OverviewQuery(
            wanted, sort if sort in pages.SORTABLE else "id", given.get("order") == "down", _number(given.get("page"))
        )
        return pages.overview(self._looking, query)

    def experiment(self, request: Request) -> Document:
        return pages.experiment(self._looking, self._entry(request), request.query_params.get("log"))

    def samples(self, request: Request) -> Document:
        return pages.samples(self._looking, self._entry(request), _samples_query(request))

    def sample(self, request: Request) -> Document:
        item = request.query_params.get("item", "0")
        repeat = _number(request.query_params.get("repeat"), 0)
        entry, query = self._entry(request), _samples_query(request)
        return _first(lambda name: pages.sample(self._looking, entry, name, repeat, query), item)

    def comparison(self, request: Request) -> Document:
        names = list(dict.fromkeys(name for name in request.query_params.getlist("of") if name))
        if not 2 <= len(names) <= MOST_COMPARED:
            raise UnsayError(
                f"expected 2 to {MOST_COMPARED} experiments to compare, got {len(names)}; mark them in the lab's list"
            )
        chosen = [_first(self._looking.entry, name) for name in names]
        item = request.query_params.get("item")
        if item is None:
            return pages.comparison(self._looking, chosen)
        return _first(lambda name: pages.comparison(self._looking, chosen, name), item)

    def wants_document(self, request: Request) -> bool:
        """Say whether an address asks for the document: by `.json`, unless an experiment's folder is called so."""
        if request.query_params.get(_AS) == "json":
            return True
        if not str(request.url.path).endswith(_JSON):
            return False
        if "folder" not in request.path_params:
            return True
        folder = _folder(request)
        if self._looking.is_folder(folder.removesuffix(_JSON)):
            return not self._looking.is_folder(folder)
        try:
            return self._looking.entry(folder).relative != folder
        except NotThereError:
            return True

    def as_document(self, request: Request) -> str:
        """Return the address of a page's document."""
        path, query = request.url.path, request.url.query
        if "folder" in request.path_params and self._looking.is_folder(_folder(request) + _JSON):
            return f"{path}?{query}&{_AS}=json" if query else f"{path}?{_AS}=json"
        return f"{'/index' if path == '/' else path.rstrip('/')}{_JSON}" + (f"?{query}" if query else "")

    def _entry(self, request: Request) -> Entry:
        """Return the experiment of an address, with or without `.json`."""
        folder = _folder(request)
        plain = folder.removesuffix(_JSON)
        if self._looking.is_folder(plain) and (request.state.as_document or not self._looking.is_folder(folder)):
            return self._looking.entry(plain)
        try:
            return self._looking.entry(folder)
        except NotThereError:
            return self._looking.entry(plain)


def _folder(request: Request) -> str:
    """Return what an address calls an experiment; a folder may have a name that is not UTF-8."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return unquote_to_bytes(raw.split(b"/", 2)[2]).decode("utf-8", "surrogateescape")


def _meant(name: str) -> tuple[str, ...]:
    """Return what a field may mean: the name that our pages percent-encoded, else the name as somebody wrote it."""
    return tuple(dict.fromkeys((unquote(name, errors="surrogateescape"), name)))


def _first(find: Callable[[str], T], name: str) -> T:
    """Return what is found under the first meaning of a name that there is."""
    *others, last = _meant(name)
    for each in others:
        with suppress(NotThereError):
            return find(each)
    return find(last)


def _samples_query(request: Request) -> SamplesQuery:
    given = request.query_params
    outcome = given.get("outcome", "")
    return SamplesQuery(
        given.get("search", "").strip(),
        outcome if outcome in pages.OUTCOMES else "",
        bool(given.get("undone")),
        bool(given.get("cut")),
        _number(given.get("page")),
    )


def _number(text: str | None, default: int = 1) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else default


def _page(template: str, site: _Site, document: Callable[[Request], Document]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        request.state.as_document = site.wants_document(request)
        found = document(request)
        if request.state.as_document:
            return _json(found)
        return _html(template, found, site.as_document(request))

    return answer


def _html(template: str, document: Mapping[str, Any], as_json: str | None, status: int = 200) -> Response:
    text = rendering.render(template, document, as_json=as_json, inline=False)
    return Response(text.encode("utf-8", "replace"), status, media_type="text/html")


def _json(document: Mapping[str, Any], status: int = 200) -> Response:
    text = json.dumps(_finite(document), ensure_ascii=True, allow_nan=False)
    return Response(text, status, media_type="application/json")


def _said(request: Request, status: int, text: str) -> Response:
    document = {"schema": 1, "page": "error", "error": redact(text)}
    if getattr(request.state, "as_document", str(request.url.path).endswith(_JSON)):
        return _json(document, status)
    return _html("error.html", document, None, status)


def _finite(value: Any) -> Any:
    """Return a document without the numbers that JSON does not have: None stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_finite(item) for item in value]
    return value
