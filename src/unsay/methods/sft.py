"""Fine-tunes on the training split, with or without undo, then evaluates zero-shot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unsay import accelerate_file, identity
from unsay.config import Model
from unsay.data.source import open_source
from unsay.errors import TrainingError
from unsay.evaluate.evaluate import evaluate_job
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report, Result
from unsay.methods import _rows, _training
from unsay.records import SCHEMA
from unsay.store import layout, read, write
from unsay.train import launch
from unsay.train.sft import dtype_of


@dataclass(frozen=True)
class Sft:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        base = open_model(experiment.model, device=job.device, dtype=job.dtype, undo=experiment.settings.undo)
        training = _training.settings(experiment)
        refused = [] if job.processes is None else accelerate_file.refusals(job.processes, training)
        if refused:
            raise TrainingError("\n".join(refused))
        guard = _rows.guard(job, source)
        hashes = {"data": _rows.data_hash(experiment, source, base, guard.leaked)}
        hashes["train"] = identity.train_hash(
            data=hashes["data"],
            weights=base.weights,
            training=training,
            undo=experiment.settings.undo,
            seed=experiment.seed,
            dtype=dtype_of(training, base.device),
        )
        # --force trains again, too; only with a limit, or where the training is another experiment's, it does not.
        again = job.force and job.limit is None and job.train_folder == job.folder
        # A finished training is only evaluated; any other must know what it must not see, before anything is moved.
        if again or not _is_trained(job.train_folder, hashes["train"]):
            guard.check(job)
        _make_room(job.train_folder, hashes, again=again)

        # 1. Training rows: ids with the origin of every token.
        report({"event": "stage", "stage": "data"})
        if not (layout.data(job.train_folder) / layout.MANIFEST).exists():
            _rows.build_rows(job, source, base, hashes["data"], guard)

        # 2. Training, from its newest checkpoint if there is one.
        report({"event": "stage", "stage": "train"})
        trained = _train(job, base, hashes["train"], report)

        # 3. Evaluation of what was trained, on exactly the prompts it was trained with.
        adapter = layout.train(job.train_folder)
        opened = open_model(
            experiment.model, device=job.device, dtype=job.dtype, adapter=adapter, weights=hashes["train"]
        )
        result = evaluate_job(job, source, opened, report)
        return replace(
            result,
            hashes=result.hashes | hashes,
            facts=result.facts | {"training": trained},
            warnings=(*result.warnings, *guard.warnings(), *_changes(trained)),
        )

    def prepare(
        self,
        job: Job,
        report: Report,
        *,
        sample: int | None = None,
        sampler: Model | None = None,
        processes: int = 1,
    ) -> dict[str, Any]:
        """Build the training rows and stop; with `sample` after asking for so many answers per question.

        The experiment's model is asked, or `sampler`, which may be a finished training of the same one.

        Return the manifest with `folder`, and `sampled`, the file of the answers. Rows that are there are kept unless
        `job.force`; rows that a training was made from are never replaced here.
        """
        return _rows.prepare(job, report, sample=sample, sampler=sampler, processes=processes)

    def export(self, folder: Path, out: Path, *, to: str, style: str) -> dict[str, Any]:
        """Write the rows below `folder` for another trainer; return what was written and what was refused."""
        return _rows.export_rows(folder, out, to=to, style=style)


def _changes(trained: dict[str, Any]) -> tuple[str, ...]:
    """Say what a resumed training went on with otherwise than it had begun: losses may differ in their last digits."""
    found = []
    for change in trained.get("changes", ()):
        told = [f"{name} {values[1]} instead of {values[0]}" for name, values in change.items() if name != "step"]
        found.append(f"training went on from step {change['step']} with {', '.join(told)}")
    return tuple(found)


def _is_trained(folder: Path, train_hash: str) -> bool:
    trained = _json(layout.train(folder) / layout.TRAINED)
    return trained is not None and trained["completed"] and trained["train_hash"] == train_hash


def _make_room(folder: Path, hashes: dict[str, str], *, again: bool) -> None:
    """Move other rows, another training and the result that came from them aside; with `again` the same ones, too."""
    manifest, trained = _json(layout.data(folder) / layout.MANIFEST), _json(layout.train(folder) / layout.TRAINED)
    stale = []
    if manifest is not None and (again or manifest["facts"].get("data_hash") != hashes["data"]):
        stale.append(layout.DATA)
    if trained is not None and (again or trained["train_hash"] != hashes["train"]):
        stale.append(layout.TRAIN)
    if not stale:
        return
    record = read.record(folder)
    if record is not None and record.hashes.get("train", hashes["train"]) != hashes["train"]:
        write.set_aside(folder, record)
    write.supersede(folder, stale, trained["train_hash"] if trained is not None else "rows")


def _json(path: Path) -> dict[str, Any] | None:
    """Return one of our JSON files; None where there is none."""
    return dict(read.read_json(path)) if path.exists() else None


def _train(job: Job, base: Opened, train_hash: str, report: Report) -> dict[str, Any]:
    """Train unless it is done, going on from an unfinished one; return the training's results."""
    folder = layout.train(job.train_folder)
    state = _json(folder / layout.TRAINED) or {"schema": SCHEMA, "train_hash": train_hash, "completed": False}
    if not state["completed"]:
        write.write_json(folder / layout.TRAINED, state)
        if job.processes is None:
            _training.train_here(job, base, report)
        else:
            # The group trains where the hashes above were taken: on the device that "auto" turned out to be.
            launch.run(_training.__name__, replace(job, device=base.device).to_json(), job.processes, report)
        state |= {"completed": True, "results": _json(folder / layout.TRAIN_RESULTS), "identities": []}
    # Who may evaluate this adapter as a finished experiment's: every experiment that trained, or shares, exactly it.
    mine = identity.identity(job.experiment)
    if mine not in state["identities"]:
        state["identities"].append(mine)
        write.write_json(folder / layout.TRAINED, state)
    return dict(state["results"])
