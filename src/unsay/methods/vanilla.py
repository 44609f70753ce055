"""Evaluates a model as it is, with examples in the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unsay.data.source import open_source
from unsay.errors import ModelError
from unsay.evaluate.evaluate import evaluate_job
from unsay.evaluate.setup import open_model
from unsay.job import Job, Report, Result
from unsay.store import layout, read


@dataclass(frozen=True)
class Vanilla:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        adapter = _adapter_of(job)
        opened = open_model(experiment.model, device=job.device, dtype=job.dtype, adapter=adapter)
        return evaluate_job(job, source, opened, report)


def _adapter_of(job: Job) -> Path | None:
    """Return the adapter of the experiment that the model names.

    Raises ModelError unless its training is finished and is the one that experiment now asks for.
    """
    model = job.experiment.model
    if model.experiment is None:
        return None
    folder = layout.train(job.output_dir / model.experiment)
    state = read.read_json(folder / layout.TRAINED) if (folder / layout.TRAINED).exists() else {}
    if not state.get("completed"):
        raise ModelError(f"expected a finished training in {folder}, got none; run that experiment first")
    if model.experiment_identity not in (None, *state["identities"]):
        raise ModelError(
            f"expected the training in {folder} to have the settings its experiment has now, got one with other "
            "settings; run that experiment again first"
        )
    return folder
