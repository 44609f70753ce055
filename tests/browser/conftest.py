"""A real browser (headless Chromium) on a real viewer; what it complains about fails the test that it was part of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.unit.lab import make_lab

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Return a browser, or skip: `make test-browser` installs one."""
    if CHROMIUM is None:
        pytest.skip("needs chromium on the path; `make test-browser` installs Debian's")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (part of the extra dev)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Viewer:
    """A viewer's address and a page of a browser on it, with all that went wrong in there."""

    address: str
    page: Any
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Any:
        answer = self.page.goto(self.address + path)
        assert answer.status == 200, path
        return self.page

    def watch(self) -> None:
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self._is_ours(request.url))

    def _is_ours(self, address: str) -> None:
        if urlsplit(address).netloc != urlsplit(self.address).netloc:
            self.complaints.append(f"request to {address}")


def violations(page: Any) -> list[str]:
    """Return what axe finds wrong with a page's accessibility."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (extra dev)")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@contextmanager
def servers() -> Iterator[Callable[[Path], str]]:
    """Give a function that starts `unsay view` on a lab and returns its address; all end with the block."""
    running: list[subprocess.Popen[str]] = []

    def start(lab: Path) -> str:
        command = [sys.executable, "-m", "unsay", "view", str(lab), "--no-browser", "--json", "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        text = ""
        assert process.stdout is not None
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "the viewer ended"
            text += line
        return str(json.loads(text)["address"]).rstrip("/")

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a lab to one test and gives its address."""
    with servers() as start:
        yield start


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("browser") / "outputs")


@pytest.fixture(scope="session")
def address(lab: Path) -> Iterator[str]:
    with servers() as start:
        yield start(lab)


@pytest.fixture(params=["light", "dark"])
def viewer(request: pytest.FixtureRequest, chromium: Any, address: str) -> Iterator[Viewer]:
    """Return a page in one colour scheme; a console message, error or foreign request in it fails the test."""
    context = chromium.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    found = Viewer(address, context.new_page())
    found.watch()
    yield found
    context.close()
    assert found.complaints == []
