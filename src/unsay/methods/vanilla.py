"""Evaluates a model as it is, with examples in the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from unsay.data.source import open_source
from unsay.evaluate.evaluate import evaluate_job
from unsay.job import Job, Report, Result
from unsay.methods._trained import open_trained


@dataclass(frozen=True)
class Vanilla:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        return evaluate_job(job, source, open_trained(experiment.model, job), report)
