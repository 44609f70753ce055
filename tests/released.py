"""What is in a lab folder of some release, in short: to see that it reads the same for ever.

`scripts/make_released.py` makes the folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsay.store import layout, read, rows

FOLDERS = Path(__file__).parent / "released"


def summary(lab: Path) -> dict[str, Any]:
    """Return what every experiment of a lab holds, as plain JSON."""
    found = {}
    for entry in read.find(lab):
        assert entry.problem is None, entry.problem
        record = entry.record
        assert record is not None
        found[entry.name] = {
            "folder": entry.relative,
            "limit": entry.limit,
            "status": record.status,
            "identity": record.identity,
            "hashes": record.hashes,
            "items": record.items,
            "notes": record.notes,
            "attempts": [attempt.outcome for attempt in record.attempts],
            "packages": sorted(record.attempts[-1].versions) if record.attempts else [],
            "metrics": {name: [value.value, value.n] for name, value in read.metrics(entry.folder).items()},
            "scores": [[line.item, line.scores] for line in read.scores(entry.folder)],
            "answers": [[trace.key.to_json(), list(trace.ids), trace.visible] for trace in read.traces(entry.folder)],
            "prompts": [[prompt.key.to_json(), prompt.sha256] for prompt in read.prompts(entry.folder)],
            "predictions": [line["predict"] for line in read.predictions(entry.folder)],
            "samples": len(list(read.samples(entry.folder, record))),
            "engines": [line["facts"]["engine"] for line in read.read_lines(entry.folder / layout.ENGINES)],
            "training": training(entry.folder),
        }
    return found


def training(folder: Path) -> dict[str, Any] | None:
    if not layout.train(folder).exists():
        return None
    texts = rows.pieces(folder)
    return {
        "hash": read.read_json(layout.train(folder) / layout.TRAINED)["train_hash"],
        "steps": read.read_json(layout.train(folder) / layout.TRAIN_RESULTS)["steps"],
        "log": (layout.train(folder) / layout.TRAINER_LOG).read_text().count("\n"),
        "rows": {row.id: [row.provenance, "".join(map(texts.of, row.ids))] for row in rows.read(folder)},
        "manifest": rows.manifest(folder)["rows"],
        "refused": len(list(rows.refused(folder))),
    }
