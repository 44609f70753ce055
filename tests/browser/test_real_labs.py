"""Every page on labs that were not made for tests: one trained by `unsay run`, and four imported GSM8K systems."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser.conftest import PHONE, Viewer, violations
from unsay import cli
from unsay.datasets import wordproblems

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright (part of the extra dev)")
pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[2] / "scripts" / "make_screenshots.py"
PROBLEMS = {"train": 600, "dev": 8, "test": 24}
KEPT = ("EXP-001", "EXP-003", "EXP-007", "EXP-008")
"""Experiments of the demo: as it is, fine-tuned with undo, and that behind a mistake, without undo and with it."""


@pytest.fixture(scope="session")
def trained(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the lab of the bundled demo file, cut to fewer problems and experiments, as a user runs it."""
    folder = tmp_path_factory.mktemp("trained")
    document = yaml.safe_load(resources.files("unsay").joinpath("assets", "demo.yaml").read_text(encoding="utf-8"))
    document["experiments"] = [one for one in document["experiments"] if one["id"] in KEPT]
    assert len(document["experiments"]) == len(KEPT)
    (folder / "problems").mkdir()
    wordproblems.write(folder / "problems", **PROBLEMS)
    document["datasets"] = {"problems": {"path": "./problems"}}
    for one in document["experiments"]:
        one["dataset"] = "problems"
    (folder / "lab.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "unsay", "run", "lab.yaml"], cwd=folder, check=True)
    return folder / "outputs"


@pytest.fixture(scope="session")
def imported(chromium: Any, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = tmp_path_factory.mktemp("imported") / "outputs"
    assert cli.main(["import", str(data_folder / "acceptance" / "gsm8k-model-solutions"), "-o", str(lab)]) == 0
    return lab


@pytest.fixture(params=[pytest.param("trained", marks=pytest.mark.slow), "imported"])
def real(request: pytest.FixtureRequest, chromium: Any, serve: Callable[[Path], str]) -> Iterator[Viewer]:
    """Return a page on one of the labs; a console message, error or foreign request in it fails the test."""
    lab: Path = request.getfixturevalue(request.param)
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    viewer = Viewer(serve(lab), context.new_page())
    viewer.watch()
    yield viewer
    context.close()
    assert viewer.complaints == []


def looks_right(viewer: Viewer) -> None:
    """Assert that the page is accessible and fits, light and dark, wide and narrow."""
    page = viewer.page
    size = page.viewport_size
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for each in (PHONE, size):
            page.set_viewport_size(each)
            assert violations(page) == [], (scheme, each, page.url)
            assert page.evaluate("document.documentElement.scrollWidth") <= each["width"], page.url


def test_every_page_by_click(real: Viewer) -> None:
    page = real.open("/")
    looks_right(real)
    every = page.locator("#results [data-row] [data-open]")
    assert every.count() == 4
    every.last.click()
    looks_right(real)
    page.get_by_role("link", name="Samples").click()
    looks_right(real)
    undone = page.get_by_label("undone")
    can_undo = "undone (0)" not in page.inner_text(".filters")
    if can_undo:
        undone.check()
        page.wait_for_url(lambda url: url.endswith("undone=1"))
    else:
        page.get_by_label("Outcome").select_option("wrong")
        page.wait_for_url(lambda url: url.endswith("outcome=wrong"))
        sync_api.expect(page.locator("#results .right")).to_have_count(0)
    page.locator("#results [data-open]").first.click()
    looks_right(real)
    if can_undo:
        struck = page.locator("#trace del")
        assert struck.count() > 0
        shown = page.locator("#trace").inner_text()
        page.get_by_role("button", name="One token back").click()
        assert len(page.locator("#trace").inner_text()) < len(shown)
        page.get_by_role("button", name="One token on").click()
        assert page.locator("#trace").inner_text() == shown
    page.locator("main > details > summary").click()
    looks_right(real)
    page.get_by_role("link", name="Lab").click()
    boxes = page.locator("input[name=of]").all()
    for box in boxes[-2:]:
        box.check()
    page.get_by_role("button", name="Compare the marked ones").click()
    looks_right(real)
    page.locator(".items [data-open]").first.click()
    assert page.locator("#item section").count() == 3  # two answers and the reference
    looks_right(real)
    page.get_by_role("link", name="This page as JSON").click()
    sync_api.expect(page.locator("body")).to_contain_text('"schema": 1')


def test_every_page_by_keys(real: Viewer) -> None:
    page = real.open("/")
    for key in ("j", "j", "k", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url(lambda url: "/experiments/" in url)
    tab_to(page, "Samples")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/samples/" in url)
    page.keyboard.press("/")
    page.keyboard.type("how many")
    page.wait_for_url(lambda url: "search=how" in url)
    page.locator("#results a[href*='search=how']").first.wait_for()
    page.keyboard.press("Escape")
    for key in ("j", "j", "Enter"):
        page.keyboard.press(key)
    page.wait_for_url(lambda url: "/sample/" in url)
    first = page.url
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url != first)
    page.keyboard.press("k")
    page.wait_for_url(first)
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "/samples/" in url and "search=how" in url)
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "/experiments/" in url)
    page.keyboard.press("Escape")
    page.wait_for_url(f"{real.address}/")
    for box in page.locator("input[name=of]").all()[-2:]:
        box.focus()
        page.keyboard.press("Space")
    tab_to(page, "Compare the marked ones")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/compare?" in url)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "item=" in url)
    page.keyboard.press("Escape")
    page.wait_for_url(f"{real.address}/")


def tab_to(page: Any, words: str) -> None:
    """Press the tabulator until what these words name has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == words:
            return
    raise AssertionError(f"{words} is not reached by the keyboard")


def test_four_systems_are_compared_at_once(chromium: Any, imported: Path, serve: Callable[[Path], str]) -> None:
    viewer = Viewer(serve(imported), chromium.new_page())
    viewer.watch()
    page = viewer.open("/")
    for box in page.locator("input[name=of]").all():
        box.check()
    page.get_by_role("button", name="Compare the marked ones").click()
    assert page.locator("main h2").count() == 3
    page.locator(".items [data-open]").first.click()
    assert page.locator("#item section").count() == 5  # four answers and the reference
    page.close()
    assert viewer.complaints == []


@pytest.mark.slow
def test_pictures_for_the_readme_are_taken_by_one_command(trained: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCREENSHOTS, trained, "--into", tmp_path / "images"], check=True)
    pictures = sorted((tmp_path / "images").iterdir())
    names = [f"{name}-{scheme}.png" for name in ("comparison", "lab", "sample") for scheme in ("dark", "light")]
    assert [path.name for path in pictures] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in pictures)
    assert len({path.read_bytes() for path in pictures}) == len(names)
