"""Take the pictures of the viewer that README.md and docs/view.md show, in light and dark, of a lab.

    python scripts/make_screenshots.py             # runs `unsay demo` in a temporary folder first
    python scripts/make_screenshots.py outputs     # of a lab that is there

Needs playwright (the extra `dev`) and chromium on the path. The pictures are those of the experiment, and of the answer
in it, that took most back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
SIZE = {"width": 1200, "height": 720}
SCHEMES = ("light", "dark")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lab", type=Path, nargs="?", help="a lab folder; without it the demo runs first")
    parser.add_argument("--into", type=Path, default=PICTURES, help="folder for the pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lab = given.lab
        if lab is None:
            lab = Path(temporary) / "outputs"
            subprocess.run([sys.executable, "-m", "unsay", "demo"], cwd=temporary, check=True)
        for path in take(lab.absolute(), given.into):
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


def take(lab: Path, into: Path) -> list[Path]:
    """Write <page>-<light or dark>.png of the lab, a comparison and one sample; return their paths."""
    from playwright.sync_api import sync_playwright

    into.mkdir(parents=True, exist_ok=True)
    # The folder is shown on the page: a short name, whoever takes the picture
    command = [sys.executable, "-m", "unsay", "view", lab.name, "--no-browser", "--json", "--port", "0"]
    server = subprocess.Popen(command, cwd=lab.parent, stdout=subprocess.PIPE, text=True)
    try:
        address = _address(server)
        written = []
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
            for scheme in SCHEMES:
                page = browser.new_page(viewport=SIZE, color_scheme=scheme)
                for name, path in _addresses(address).items():
                    page.goto(address + path)
                    page.locator(".where").evaluate_all("all => all.forEach(each => { each.hidden = true; })")
                    target = into / f"{name}-{scheme}.png"
                    page.screenshot(path=target)
                    written.append(target)
                page.close()
            browser.close()
        return written
    finally:
        server.terminate()
        server.wait()


def _addresses(address: str) -> dict[str, str]:
    """Choose what is shown: the finished experiment with the most undone answers, the answer with the most undos."""
    every = _document(address + "/index.json")["experiments"]
    done = [one for one in every if one["status"] == "completed" and one["limit"] is None]
    if len(done) < 2:
        raise SystemExit("expected a lab with two finished experiments or more; run `unsay demo` first")
    lists = {one["folder"]: _document(f"{address}/samples/{one['folder']}.json?undone=1") for one in done}
    chosen = max(done, key=lambda one: lists[one["folder"]]["counts"]["undone"])["folder"]
    samples = lists[chosen]["samples"] or _document(f"{address}/samples/{chosen}.json")["samples"]
    item = max(samples, key=lambda one: (one["undos"], one["right"] is True))["item"]
    others = [one["folder"] for one in done if one["folder"] != chosen]
    pairs = [f"/compare{{}}?of={other}&of={chosen}" for other in reversed(others)]
    pair = next(one for one in pairs if _document(address + one.format(".json"), missing={}))
    return {
        "lab": "/",
        "sample": f"/sample/{chosen}?item={item}",
        "comparison": pair.format(""),
    }


def _address(server: subprocess.Popen[str]) -> str:
    text = ""
    assert server.stdout is not None
    while not text.endswith("}\n"):
        line = server.stdout.readline()
        if not line:
            raise SystemExit("the viewer ended before it had an address")
        text += line
    return str(json.loads(text)["address"]).rstrip("/")


def _document(address: str, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a page's document, or `missing` where it says that there is none: two that cannot be compared."""
    try:
        with urlopen(address) as answer:
            found: dict[str, Any] = json.load(answer)
    except HTTPError:
        if missing is None:
            raise
        return missing
    return found


def _chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        raise SystemExit("expected chromium on the path; `make test-browser` installs Debian's")
    return found


if __name__ == "__main__":
    sys.exit(main())
