"""The viewer and the HTML report in a real browser: clicks, keys, accessibility, width, time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lab as large
from tests.browser.conftest import PHONE, Viewer, violations
from tests.unit.lab import Arm, change_record, make, make_lab
from tests.unit.web import test_hostile
from unsay.web import standalone

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright (part of the extra dev)")
pytestmark = pytest.mark.browser

UNDO = "qwen3-4b/gsm8k/sft/lora/train_bt"
TRAIN = "qwen3-4b/gsm8k/sft/lora/train"
PAGES = (
    "/", f"/experiments/{UNDO}", f"/samples/{UNDO}", f"/sample/{UNDO}?item=0", f"/compare?of={TRAIN}&of={UNDO}&item=3",
)  # fmt: skip
FIRST_PAINT = """() => new Promise(found => new PerformanceObserver(list => {
  const paint = list.getEntries().find(entry => entry.name === 'first-contentful-paint');
  if (paint) found(paint.startTime);
}).observe({type: 'paint', buffered: true}))"""
FILTERED = """async text => {
  const before = performance.now();
  const old = document.querySelector('#results');
  const search = document.querySelector('input[type=search]');
  search.value = text;
  search.dispatchEvent(new Event('input', {bubbles: true}));
  while (document.querySelector('#results') === old) await new Promise(requestAnimationFrame);
  return performance.now() - before;
}"""


def at(viewer: Viewer) -> str:
    return str(viewer.page.url).removeprefix(viewer.address)


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_accessible_and_fit_a_phone(viewer: Viewer, path: str) -> None:
    page = viewer.open(path)
    assert violations(page) == []
    page.set_viewport_size(PHONE)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize(("path", "status"), [("/experiments/EXP-999", 404), (f"/compare?of={UNDO}", 422)])
def test_what_cannot_be_shown_is_accessible_and_fits_a_phone(viewer: Viewer, path: str, status: int) -> None:
    page = viewer.page
    answer = page.goto(viewer.address + path)
    assert answer.status == status
    for size in (PHONE, {"width": 1280, "height": 900}):
        page.set_viewport_size(size)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    page.get_by_role("link", name="Back to the lab").click()
    assert at(viewer) == "/"
    (said,) = viewer.complaints  # the browser reports every page of such a status
    assert f"status of {status}" in said
    viewer.complaints.clear()


def test_every_page_is_reached_by_clicks(viewer: Viewer) -> None:
    page = viewer.open("/")
    page.get_by_role("link", name="EXP-004").first.click()
    assert at(viewer) == f"/experiments/{UNDO}"
    page.get_by_role("link", name="Samples").click()
    page.get_by_label("Outcome").select_option("wrong")
    page.wait_for_url(lambda url: url.endswith("outcome=wrong"))
    sync_api.expect(page.locator("#results .right")).to_have_count(0)
    page.locator("#results [data-open]").nth(1).click()
    assert "/sample/" in at(viewer)
    assert "outcome=wrong" in at(viewer)
    page.get_by_role("link", name="Samples").click()
    assert at(viewer) == f"/samples/{UNDO}?outcome=wrong"
    page.get_by_role("link", name="Lab").click()
    for name in ("EXP-003", "EXP-004"):
        page.get_by_label(f"Compare {name}").first.check()
    page.get_by_role("button", name="Compare the marked ones").click()
    assert "EXP-004 minus EXP-003" in page.inner_text("main")
    page.locator(".items [data-open]").first.click()
    sync_api.expect(page.locator("#item")).to_be_visible()
    page.get_by_role("link", name="This page as JSON").click()
    sync_api.expect(page.locator("body")).to_contain_text('"schema": 1')


def test_every_page_is_reached_by_keys(viewer: Viewer) -> None:
    page = viewer.open("/")
    page.keyboard.press("/")
    page.keyboard.type("backtrack")
    page.wait_for_url(lambda url: url.endswith("search=backtrack"))
    sync_api.expect(page.locator("#results [data-row]")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith(f"/experiments/{UNDO}"))
    page.get_by_role("link", name="Samples").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/samples/" in url)
    for key in "jjkj":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith("item=1"))
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url.endswith("item=2"))
    page.keyboard.press("k")
    page.wait_for_url(lambda url: url.endswith("item=1"))
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "/samples/" in url)
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "/experiments/" in url)
    page.keyboard.press("Escape")
    page.wait_for_url(f"{viewer.address}/")


def test_a_trace_is_replayed_token_by_token(viewer: Viewer) -> None:
    page = viewer.open(f"/sample/{UNDO}?item=0")
    slider, trace, struck = page.locator("#replay input"), page.locator("#trace"), page.locator("#trace del")
    assert trace.inner_text().strip() == "5<|BACKTRACK|> 4<|end|>"
    slider.fill("1")
    assert trace.inner_text().strip() == "5"
    assert "line-through" not in struck.evaluate("one => getComputedStyle(one).textDecorationLine")
    page.get_by_role("button", name="One token on").click()
    assert "<|BACKTRACK|>" in trace.inner_text()
    assert "line-through" in struck.evaluate("one => getComputedStyle(one).textDecorationLine")
    page.get_by_role("button", name="Replay").click()
    sync_api.expect(page.locator("#replay output")).to_have_text("4 of 4")
    assert page.get_by_role("button", name="Replay").get_attribute("aria-pressed") == "false"


def test_a_list_of_running_experiments_keeps_up_and_keeps_marks(
    chromium: Any, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    lab = make_lab(tmp_path / "outputs")
    folder = make(lab, Arm("EXP-011", method="sft", config="lora/run", status="running"))
    page = chromium.new_page()
    page.goto(serve(lab) + "/")
    page.get_by_label("Compare EXP-003").check()
    assert "1 running" in page.inner_text(".count")
    page.set_viewport_size(PHONE)
    page.get_by_label("Compare EXP-002").focus()
    page.locator("#results .scroll").evaluate("place => { place.scrollLeft = 120; }")
    change_record(folder, status="cancelled")
    sync_api.expect(page.locator(".count")).to_contain_text("1 cancelled", timeout=15_000)
    assert page.get_by_label("Compare EXP-003").is_checked()
    sync_api.expect(page.get_by_label("Compare EXP-002")).to_be_focused()
    assert page.locator("#results .scroll").evaluate("place => place.scrollLeft") > 0
    page.close()


@pytest.mark.parametrize("name", [*test_hostile.HOSTILE, "1 MB"])
def test_hostile_answers_run_nothing_and_break_no_layout(
    chromium: Any, tmp_path: Path, serve: Callable[[Path], str], name: str
) -> None:
    lab = make_lab(tmp_path / "outputs")
    text = test_hostile.HOSTILE.get(name, test_hostile.HUGE)
    for folder in (UNDO, TRAIN):
        test_hostile.answers(lab / folder, [text, "calm"])
    viewer = Viewer(serve(lab), chromium.new_page(viewport=PHONE))
    viewer.watch()
    viewer.page.on("dialog", lambda dialog: viewer.complaints.append(f"dialog: {dialog.message}"))
    for path in (*PAGES[1:4], f"/compare?of={TRAIN}&of={UNDO}&item=0"):
        page = viewer.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    viewer.page.close()
    assert viewer.complaints == []


def test_the_report_opens_from_disk_without_scripts_and_sorts_with_them(
    chromium: Any, lab: Path, tmp_path: Path
) -> None:
    file = standalone.write_report(lab, tmp_path / "report.html")
    texts = []
    for scripts in (False, True):
        context = chromium.new_context(java_script_enabled=scripts, viewport=PHONE)
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda said, to=complaints: to.append(said.text))
        page.on(
            "request", lambda request, to=complaints: to.append(request.url) if request.url != file.as_uri() else None
        )
        page.goto(file.as_uri())
        assert page.locator("svg.figure").first.is_visible()
        assert page.locator("table").count() > 8
        texts.append(page.locator("table").first.inner_text())
        if scripts:
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            page.get_by_role("button", name="EM (strict)").first.click()
            first = page.locator("table").first.locator("tbody tr").first.inner_text()
            assert first.startswith("EXP-002")  # the lowest
        context.close()
        assert complaints == []
    assert texts[0] == texts[1]


def test_full_size_lists_are_there_at_once(chromium: Any, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    """1,319 answers of each of 6 experiments: first paint below a second, filtering below a fifth of one."""
    lab = tmp_path / "outputs"
    large.make(lab, 6, 1_319)
    page = chromium.new_page()
    address = serve(lab)
    page.goto(address + "/")
    paints, filters = [], []
    for folder in [box.get_attribute("value") for box in page.locator("input[name=of]").all()]:
        page.goto(f"{address}/samples/{folder}".replace("+", "%2B"))
        assert "of 1319 answers" in page.inner_text(".count")
        paints.append(page.evaluate(FIRST_PAINT))
        filters += [page.evaluate(FILTERED, text) for text in ("question 1", "7", "")]
    assert len(paints) == 6
    print(f"first paint {max(paints):.0f} ms at most, filtering {max(filters):.0f} ms at most")
    assert statistics.median(paints) < 1000
    assert statistics.median(filters) < 200


@pytest.mark.slow
def test_a_large_lab_is_listed_at_once(chromium: Any, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    """10,000 experiments: once they are indexed, first paint below a second."""
    lab = tmp_path / "outputs"
    large.make(lab, 10_000, 2)
    page = chromium.new_page()
    page.set_default_timeout(300_000)
    address = serve(lab)
    page.goto(address + "/")
    assert "of 10000 experiments" in page.inner_text(".count")
    paints = []
    for number in range(1, 6):
        page.goto(f"{address}/?page={number}")
        paints.append(page.evaluate(FIRST_PAINT))
    print(f"first paint {statistics.median(paints):.0f} ms, {max(paints):.0f} ms at most")
    assert statistics.median(paints) < 1000
