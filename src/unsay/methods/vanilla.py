"""Evaluates a model as it is, with examples in the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from unsay.data.source import open_source
from unsay.evaluate.evaluate import evaluate_job
from unsay.evaluate.setup import open_model
from unsay.job import Job, Report, Result
from unsay.store import layout


@dataclass(frozen=True)
class Vanilla:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        trained = experiment.model.experiment
        adapter = None if trained is None else layout.train(job.output_dir / trained)
        opened = open_model(experiment.model, device=job.device, dtype=job.dtype, adapter=adapter)
        return evaluate_job(job, source, opened, report)
