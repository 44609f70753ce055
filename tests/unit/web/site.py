"""The viewer of a lab as a browser on this machine meets it, and what stands on a page once it is parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from unsay.web.server import application

ADDRESS = "http://127.0.0.1:8765"


def visit(lab: Path) -> TestClient:
    return TestClient(application(lab, "127.0.0.1", 8765), base_url=ADDRESS)


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page: every element with its attributes, and all text."""

    html: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str, **attributes: Any) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            found
            for name, found in self.elements
            if name == tag and all(key in found and value in (True, found[key]) for key, value in wanted.items())
        ]


def page(client: TestClient, address: str, status: int = 200) -> Page:
    answer = client.get(address)
    assert answer.status_code == status, answer.text[:2000]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def document(client: TestClient, address: str, status: int = 200) -> Any:
    answer = client.get(address)
    assert answer.status_code == status, answer.text[:2000]
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found["schema"] == 1
    return found
