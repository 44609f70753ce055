"""`unsay doctor`."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unsay.cli import _lab

_LOW_DISK = 5.0
_MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}

# Asked in another process: importing torch takes seconds and memory.
_ASK_TORCH = """
import json, torch
devices = ["cpu"]
if torch.cuda.is_available():
    devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}, "
                f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
                for i in range(torch.cuda.device_count())]
if getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
    devices.append("mps")
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "devices": devices}))
"""


@dataclass(frozen=True)
class Check:
    """One finding. `bad` makes the command fail; `next` says what to do about it."""

    name: str
    level: Literal["ok", "note", "bad"]
    found: str
    next: str = ""


def command(
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    quick: Annotated[bool, typer.Option("--quick", help="Do not start torch to ask for devices.")] = False,
    as_json: _lab.Json = False,
) -> None:
    """Check this machine: packages, devices, disk, Hugging Face cache and token, the lab folder."""
    checks = [_python(), *_packages(), *([] if quick else [_torch()]), *_disk(output_dir), *_hub()]
    fine = all(check.level != "bad" for check in checks)
    if as_json:
        _lab.print_json({"schema": 1, "ok": fine, "checks": [asdict(check) for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{_MARKS[check.level]} {check.name:<{width}}  {check.found}")
            if check.next:
                print(f"     {'':<{width}}  → {check.next}")
    if not fine:
        raise typer.Exit(1)


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")


def _packages() -> Iterator[Check]:
    try:
        requirements = metadata.requires("unsay") or []
    except metadata.PackageNotFoundError:
        yield Check("unsay", "note", "runs from its source folder, is not installed", "pip install -e '.[train]'")
        requirements = []
    wanted: dict[str, list[tuple[str, str]]] = {}
    for text in requirements:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*['\"]([^'\"]+)['\"])?", text)
        if match and match[1].lower() != "unsay":
            wanted.setdefault(match[3] or "", []).append((match[1], match[2].strip()))
    for extra, packages in wanted.items():
        yield _group(extra, packages)


def _group(extra: str, packages: list[tuple[str, str]]) -> Check:
    there, missing, old = [], [], []
    for name, bounds in packages:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        there.append(f"{name} {version}")
        if not _satisfies(version, bounds):
            old.append(f"{name} {version} (wanted {bounds})")
    name = f"packages[{extra}]" if extra else "packages"
    found = "; ".join(filter(None, (", ".join(there), "missing: " + ", ".join(missing) if missing else "")))
    if not missing and not old:
        return Check(name, "ok", found)
    install = f"pip install -U 'unsay[{extra}]'" if extra else "pip install -U unsay"
    if old:
        found += "; too old: " + ", ".join(old)
    # An extra nobody asked for may be missing; one that is there must be new enough.
    return Check(name, "bad" if old or not extra else "note", found, install)


def _satisfies(version: str, bounds: str) -> bool:
    """Compare release numbers with `>=` bounds, the only ones our packages state."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.match(r"[0-9.]*", text)[0].split(".") if part)  # type: ignore[index]

    return all(numbers(version) >= numbers(low) for low in re.findall(r">=\s*([0-9.]+)", bounds))


def _torch() -> Check:
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        what = "not installed: reading, scoring and comparing work, running does not"
        return Check("torch", "note", what, "pip install 'unsay[train]'")
    try:
        asked = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=120)
        answer: dict[str, Any] = json.loads(asked.stdout)
    except subprocess.TimeoutExpired:
        return Check("torch", "bad", "did not start within two minutes", "try: python -c 'import torch'")
    except ValueError:
        last = asked.stderr.strip().split("\n")[-1]
        return Check("torch", "bad", f"cannot be imported: {last}", "install torch again for this machine")
    threads = f"{answer['threads']} threads"
    return Check("torch", "ok", f"{answer['version']}, {threads}, devices: {'; '.join(answer['devices'])}")


def _disk(output_dir: Path) -> Iterator[Check]:
    place = output_dir.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        yield Check("lab folder", "bad", f"{place} is a file", "choose another output_dir, or move that file away")
    elif os.access(place, os.W_OK):
        made = "" if place == output_dir.absolute() else f" (will be made in {place})"
        yield Check("lab folder", "ok", f"{output_dir.absolute()}{made}")
    else:
        advice = "choose another output_dir, or change its permissions"
        yield Check("lab folder", "bad", f"{place} is not writable", advice)
    free = shutil.disk_usage(place).free / 2**30
    level: Literal["ok", "note"] = "ok" if free >= _LOW_DISK else "note"
    yield Check("disk", level, f"{free:.1f} GiB free", "" if level == "ok" else "weights and checkpoints need more")


def _hub() -> Iterator[Check]:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    yield Check("hub cache", "ok", f"{cache}, {models} models" if cache.is_dir() else f"{cache} (not there yet)")
    token_file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if os.environ.get("HF_TOKEN") or token_file.is_file():
        yield Check("hub token", "ok", "there")
    else:
        yield Check("hub token", "note", "none", "models behind a licence (Llama) need one: hf auth login")
