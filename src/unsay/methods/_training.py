"""Train the rows of an experiment: in this process, or as one of a group that accelerate's launcher started.

train_here(job, base, report)
python -m unsay.methods._training job.json      # what `unsay.train.launch` runs in every process of a group
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsay.accounting import spent_here
from unsay.config import Experiment
from unsay.data import build
from unsay.errors import TrainingError
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report
from unsay.settings import Training
from unsay.store import layout
from unsay.train import launch
from unsay.train.group import ALONE, Group, join
from unsay.train.sft import train


def settings(experiment: Experiment) -> Training:
    training = experiment.settings.training
    if training is None:
        raise TrainingError(
            f"experiment {experiment.folder} has no training settings. Use a config such as lora/train."
        )
    return training


def train_here(
    job: Job, base: Opened, report: Report, *, group: Group = ALONE, memory: Mapping[str, Any] | None = None
) -> None:
    """Train, going on from an unfinished training; `unsay.train.sft` says what comes out and what is raised."""
    experiment = job.experiment
    spent: dict[str, Any] = {"tokens_read": 0}

    def count(tokens: int) -> None:
        spent["tokens_read"] += tokens
        if group.count > 1:  # the process that started the group sees none of this by itself
            spent.update(spent_here(group.count))

    train(
        build.load_rows(job.train_folder),
        model_path=experiment.model.path,
        revision=base.facts["revision"] or experiment.model.revision,
        tokenizer=base.tokenizer,
        table=base.table,
        training=settings(experiment),
        undo=experiment.settings.undo,
        seed=experiment.seed,
        out=layout.train(job.train_folder),
        device=base.device,
        trust_remote_code=experiment.model.trust_remote_code,
        progress=lambda step, total, loss: report(
            {"event": "progress", "stage": "train", "done": step, "total": total, "loss": loss, "spent": dict(spent)}
        ),
        count=count,
        group=group,
        memory=memory,
    )


def main() -> None:
    value = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    memory = value.pop("memory")
    job = Job.from_json(value)
    with launch.member() as report:
        group = join(job.device)
        base = open_model(job.experiment.model, device=group.device, dtype=job.dtype, undo=job.experiment.settings.undo)
        train_here(job, base, report if group.first else _to_nobody, group=group, memory=memory)


def _to_nobody(_: object) -> None:
    """Where the other processes report their progress: the first one speaks for all."""


if __name__ == "__main__":
    main()
