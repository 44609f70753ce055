"""The weights of a finished training, for whoever names its experiment as a model.

opened = open_trained(experiment.model, job)
"""

from __future__ import annotations

from pathlib import Path

from unsay.config import Model
from unsay.errors import ModelError
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job
from unsay.store import layout, read


def open_trained(model: Model, job: Job) -> Opened:
    """Open a model on a job's device; with the adapter of the experiment that it names, if it names one."""
    return open_model(model, device=job.device, dtype=job.dtype, adapter=adapter_of(model, job.output_dir))


def adapter_of(model: Model, output_dir: Path) -> Path | None:
    """Return the adapter of the experiment that the model names; None where it names none.

    Raises ModelError unless its training is finished and is the one that experiment now asks for.
    """
    if model.experiment is None:
        return None
    folder = layout.train(output_dir / model.experiment)
    state = read.read_json(folder / layout.TRAINED) if (folder / layout.TRAINED).exists() else {}
    if not state.get("completed"):
        raise ModelError(f"expected a finished training in {folder}, got none; run that experiment first")
    if model.experiment_identity not in (None, *state["identities"]):
        raise ModelError(
            f"expected the training in {folder} to have the settings its experiment has now, got one with other "
            "settings; run that experiment again first"
        )
    return folder
