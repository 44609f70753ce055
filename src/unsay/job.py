"""One experiment as a worker process gets it (what, where, on what hardware), and what a method gives back.

Knows nothing about methods or about where a job runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay.backend import Backend
from unsay.config import Dataset, Experiment, experiment_from_json, experiment_to_json
from unsay.identity import identity
from unsay.records import SCHEMA
from unsay.store import layout, read

Event = dict[str, Any]
"""What a worker reports: `{"event": "stage" | "progress" | "end", …}`, JSON all the way down."""

Report = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """One experiment to carry out.

    `device`, `dtype`, `batch_size`, `shards`, `threads` and `processes` are recorded but are not part of its identity;
    nor are `evaluated` and `called_off`.
    """

    experiment: Experiment
    output_dir: Path
    limit: int | None = None
    force: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    """Answers generated at a time; None: as many as suit the device."""
    check_batch: int = 0
    """Answers to generate again alone, to see whether they come out the same."""
    check_with: Backend | None = None
    """What else generates those once more."""
    shards: int = 1
    """Parts to generate answers in; who helps with them is the executor's affair."""
    takes_part: bool = True
    """Whether the process that made the parts answers them, too, and not only its helpers."""
    threads: int | None = None
    """Threads that each of those who answer parts computes with; None: as many as its libraries choose."""
    processes: Mapping[str, Any] | None = None
    """An accelerate config (`unsay.accelerate_file`) to train with several processes; None: one trains."""
    evaluated: tuple[Dataset, ...] = ()
    """The other datasets that the experiment's file evaluates on: what is trained on must not be in there either."""
    rehearsal: bool = False
    """Nothing of it is kept: evaluation data that cannot be read is warned of, and does not stop a training."""
    called_off: bool = False
    """Whether somebody had cancelled it before it was asked for; what is cancelled afterwards does not begin."""
    place: Mapping[str, Any] = field(default_factory=dict)
    """Where it runs, for the record: the executor's name, and what that adds."""
    file: Path | None = None
    """The experiment file; the commit of its folder is recorded."""

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return self.output_dir / self.experiment.folder

    @property
    def result_folder(self) -> Path:
        """Where this run's evaluation goes: the experiment's folder, or its `limit_<n>` folder."""
        return layout.limited(self.folder, self.limit)

    @property
    def train_folder(self) -> Path:
        """The folder whose data and training are used; another experiment's when only the decoding differs."""
        return self.output_dir / (self.experiment.train_folder or self.experiment.folder)

    @property
    def written_folders(self) -> tuple[Path, ...]:
        """The folders this job must be the only one to write."""
        return tuple(sorted({self.folder, self.train_folder}))

    @property
    def read_folders(self) -> tuple[Path, ...]:
        """The folders whose training this job reads: nobody may write them meanwhile."""
        trained = self.experiment.model.experiment
        return () if trained is None else (self.output_dir / trained,)

    def is_done(self) -> bool:
        """Say whether a finished result with this very identity (and number format, if one was asked for) is there."""
        return self.is_finished() and not self.missing_files()

    def is_finished(self) -> bool:
        """Say the same of the record alone: files of the result may be gone."""
        record = read.record(self.result_folder)
        if self.force or record is None or record.status != "completed":
            return False
        if self.dtype != "auto" and record.facts.get("dtype") != self.dtype:
            return False
        return record.identity == identity(self.experiment)

    def missing_files(self) -> list[str]:
        """Return the files that the record names and that are not there."""
        record = read.record(self.result_folder)
        names = record.files.values() if record is not None else ()
        return [name for name in names if not (self.result_folder / name).is_file()]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "experiment": experiment_to_json(self.experiment),
            "output_dir": str(self.output_dir),
            "limit": self.limit,
            "force": self.force,
            "device": self.device,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "check_batch": self.check_batch,
            "check_with": None if self.check_with is None else dataclasses.asdict(self.check_with),
            "shards": self.shards,
            "takes_part": self.takes_part,
            "threads": self.threads,
            "processes": None if self.processes is None else dict(self.processes),
            "evaluated": [dataclasses.asdict(dataset) for dataset in self.evaluated],
            "rehearsal": self.rehearsal,
            "called_off": self.called_off,
            "place": dict(self.place),
            "file": None if self.file is None else str(self.file),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Job:
        known = {key: item for key, item in value.items() if key != "schema"}
        known["experiment"] = experiment_from_json(known["experiment"])
        known["output_dir"] = Path(known["output_dir"])
        known["file"] = Path(known["file"]) if known.get("file") else None
        known["check_with"] = Backend.from_json(known["check_with"]) if known.get("check_with") else None
        known["evaluated"] = tuple(Dataset(**dataset) for dataset in known.get("evaluated", ()))
        return cls(**known)


@dataclass(frozen=True)
class Result:
    """What a method found, for the experiment's record."""

    hashes: dict[str, str]
    items: int
    files: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
