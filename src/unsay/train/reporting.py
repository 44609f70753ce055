"""Logs handed to transformers' own integrations (TensorBoard, Weights & Biases, MLflow, …), for those who ask for one.

Each of them reads its own environment variables; TensorBoard writes below `runs/` in the training's folder.

    reporters = Reporters("tensorboard", out, model)
    reporters.log({"loss": 0.5}, step=10, epoch=0.3)
    reporters.end()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsay.errors import TrainingError

NONE = "none"


class Reporters:
    """The integrations that `report_to` names, comma-separated; `none` is none of them."""

    def __init__(self, report_to: str, out: Path, model: Any, total: int) -> None:
        self.callbacks: list[Any] = []
        self.model = model
        if report_to == NONE:
            return
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations import get_reporting_integration_callbacks

        names = [name.strip() for name in report_to.split(",")]
        try:
            self.callbacks = [kind() for kind in get_reporting_integration_callbacks(names)]
        except (ImportError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"report_to: expected names of transformers' integrations that are installed, got {report_to!r}: "
                f"{error}; install what it needs, or leave report_to out"
            ) from error
        self.arguments = TrainingArguments(output_dir=str(out), report_to="none", use_cpu=True)
        self.state = TrainerState(max_steps=total)
        self.control = TrainerControl()
        self._call("on_train_begin")

    def log(self, values: dict[str, Any], *, step: int, epoch: float) -> None:
        if self.callbacks:
            self.state.global_step, self.state.epoch = step, epoch
            self._call("on_log", logs=values)

    def end(self) -> None:
        if self.callbacks:
            self._call("on_train_end")

    def _call(self, event: str, **values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.arguments, self.state, self.control, model=self.model, **values)
