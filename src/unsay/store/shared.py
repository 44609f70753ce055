"""Where an experiment's `data/` and `train/` lie: in its own folder, or in that of the training it shares.

Experiments that differ in nothing but how they decode share one training, and its folder need not be that of any of
them. What was trained names them (`identities` in trained.json); rows that nothing was trained on name what their
experiments have in common (`trained_as` in their manifest).

    shared.training_folder(entry.folder, lab)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unsay.errors import StoreError
from unsay.store import layout
from unsay.store.read import read_json, record

_DEPTH = 3
"""Parts of a folder's name that say model, dataset and method: a training is shared below them."""


def training_folder(folder: Path, lab: Path) -> Path:
    """Return the folder that holds an experiment's rows and training; its own where there are none."""
    if _trained(folder) or _manifest(folder):
        return folder
    try:
        found = record(folder)
    except StoreError:
        return folder
    if found is None:
        return folder
    wanted = trained_as(found.spec)
    for other in _folders(folder, lab):
        facts = _manifest(other).get("facts") or {}
        if found.identity in _trained(other).get("identities", ()):
            return other
        if facts and (facts.get("trained_as") == wanted or facts.get("data_hash") == found.hashes.get("data", "")):
            return other
    return folder


def trained_as(spec: Mapping[str, Any]) -> str:
    """Hash what decides an experiment's training, given what decides its numbers: all but how it decodes."""
    settings = spec.get("settings") or {}
    kept = {**spec, "settings": {key: value for key, value in settings.items() if key != "decode"}}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _folders(folder: Path, lab: Path) -> Iterator[Path]:
    """Yield the folders of the same model, dataset and method that hold rows or a training."""
    try:
        parts = folder.absolute().relative_to(lab.absolute()).parts[:_DEPTH]
    except ValueError:
        return
    for place, below, _ in os.walk(lab.absolute().joinpath(*parts)):
        if layout.TRAIN in below or layout.DATA in below:
            yield Path(place)
        inner = {layout.TRAIN, layout.DATA, layout.LOGS, layout.SUPERSEDED}
        below[:] = sorted(name for name in below if name not in inner and not name.startswith("."))


def _trained(folder: Path) -> dict[str, Any]:
    return _document(layout.train(folder) / layout.TRAINED)


def _manifest(folder: Path) -> dict[str, Any]:
    return _document(layout.data(folder) / layout.MANIFEST)


def _document(path: Path) -> dict[str, Any]:
    """Return one of our JSON files; nothing where it cannot be read: then it is not what is looked for."""
    if not path.exists():
        return {}
    try:
        value = read_json(path)
    except StoreError:
        return {}
    return value if isinstance(value, dict) else {}
