"""The steps of a training: batches, gradients, the log, measurements on held-out rows, checkpoints.

Plain PyTorch. The loss is taken at supervised positions only and divided by their weight in the whole effective batch,
so that neither padding nor the size of a micro-batch changes the result. Out of memory, micro-batches are halved, then
activations computed again on the way back. Stopped, the loop goes on from the newest checkpoint and ends where it would
have ended. Several processes (`unsay.train.group`) split every effective batch, and the rest stays as it is. Knows no
adapter files and no undo: `tuning` is `unsay.train.lora` or `unsay.train.full`.

    loop = Loop(traces, held_out, training, tuning, seed=0, out=Path("train"), device="cuda", key=key, row_ids=ids)
    loop.train(model)
    loop.results()
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from unsay.accounting import host_peak
from unsay.errors import TrainingError
from unsay.records import SCHEMA
from unsay.settings import Training
from unsay.store import layout, write
from unsay.train import curve
from unsay.train.collate import Batch, Supervised, collate, order
from unsay.train.group import ALONE, Group, StartAgainError, close, part_of, restore, trainable, whole
from unsay.train.loss import batch_loss
from unsay.train.reporting import NONE, Reporters
from unsay.train.traces import Trace

Progress = Callable[[int, int, float], None]

CHECKPOINT = "checkpoint-"
BEST = "best-"
STATE = "state.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass
class Loop:
    """The state of one training: where it is, what it has seen, and how it writes that down."""

    traces: Sequence[Trace]
    held_out: Sequence[Trace]
    training: Training
    tuning: Any
    """The module that knows what adapts: which parameters there are, how a step is taken, what a checkpoint holds."""
    row_ids: Sequence[int]
    seed: int
    out: Path
    device: str
    key: str
    bf16: bool = False
    progress: Progress | None = None
    count: Callable[[int], None] | None = None
    """Called after every step with the tokens that the model has computed in it."""
    group: Group = ALONE
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What a `StartAgainError` said about the memory there is, from a start before this one."""
    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    micro_batch: int = 0
    resumed_from: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Steps from which on it went on otherwise than before: [before, then] of what changed."""
    recompute: bool = False
    """Whether activations are computed again on the way back: slower, the same numbers, less memory."""
    out_of_memory: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    """Step and loss of the lowest loss on the held-out rows so far."""
    tokens: int = 0
    earlier: float = 0.0
    started: float = 0.0
    optimizer: Any = None
    schedule: Any = None

    def __post_init__(self) -> None:
        training = self.training
        self.size = training.per_device_train_batch_size * training.gradient_accumulation_steps
        share = math.ceil(self.size / self.group.count)  # of an effective batch, one process's
        self.micro_batch = share if training.auto_find_batch_size else min(training.per_device_train_batch_size, share)
        self.recompute = training.gradient_checkpointing
        self.remember(self.memory)
        self.steps_per_epoch = math.ceil(len(self.traces) / self.size)
        by_epochs = math.ceil(training.num_train_epochs * self.steps_per_epoch)
        self.total = training.max_steps if training.max_steps > 0 else by_epochs
        self.save_steps = training.save_steps or self.steps_per_epoch
        self.eval_steps = training.eval_steps or self.steps_per_epoch
        self.lengths = [trace.length for trace in self.traces]
        self.depths = [trace.depth for trace in self.traces] if training.curriculum == "depth" else None

    # 1. -- the story ----------------------------------------------------------------------------------------------

    def train(self, model: Any) -> None:
        from transformers import get_scheduler

        training = self.training
        self.optimizer = torch.optim.AdamW(self.tuning.parameter_groups(model, training), lr=training.learning_rate)
        self.schedule = get_scheduler(
            training.lr_scheduler_type,
            self.optimizer,
            # The first step of a warm-up has a rate of zero: a training of one step has none.
            num_warmup_steps=min(math.ceil(self.total * training.warmup_ratio), self.total - 1),
            num_training_steps=self.total,
        )
        self.resume(model)
        self.begin_log()
        self.reporters: Any = Reporters(training.report_to if self.group.first else NONE, self.out, model, self.total)
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        self.started = time.monotonic()
        model.train()
        if self.recompute:
            _recompute(model)
        for indices in self.remaining():
            rate = self.schedule.get_last_lr()[0]
            loss, norm = self.optimise(model, [self.traces[index] for index in indices])
            self.step += 1
            self.losses.append(loss)
            if self.step % training.logging_steps == 0 or self.step == self.total:
                self.log(rate, norm)
            if self.held_out and (self.step % self.eval_steps == 0 or self.step == self.total):
                self.evaluate(model)
            if self.step % self.save_steps == 0 and self.step < self.total:
                self.checkpoint(model)
            if self.progress is not None:
                self.progress(self.step, self.total, loss)
        self.elapsed_at_end = self.elapsed
        self.reporters.end()
        self.restore_best(model)
        self.write_state()
        if self.group.first:
            curve.draw(self.history, self.out)

    def remaining(self) -> Iterator[list[int]]:
        """Yield the effective batches from the present step on."""
        while self.step < self.total:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            # In the first epoch only: from the second on the model has met every depth.
            depths = self.depths if epoch == 0 else None
            batches = order(self.lengths, size=self.size, seed=self.seed, epoch=epoch, depths=depths)
            for indices in batches[done:]:
                yield indices
                if self.step == self.total:
                    return

    # 2. -- one step -----------------------------------------------------------------------------------------------

    def optimise(self, model: Any, traces: Sequence[Trace]) -> tuple[float, float]:
        """Take one optimiser step; return its loss and the gradient's norm."""
        examples = [example for trace in traces for example in trace.examples]
        total = sum(trace.weight for trace in traces)

        def compute() -> float:
            torch.manual_seed(_step_seed(self.seed, self.step, self.group.rank))
            return sum(self.backward(model, batch, total) for batch in self.batches(examples))

        loss = self.within_memory(compute, model, examples)
        self.check_finite("loss", loss, examples)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.group.add_gradients(parameters)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or math.inf)))
        self.check_finite("gradient", norm, examples)
        try:
            self.tuning.step(model, self.optimizer, self.training, self.row_ids)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"expected weights, gradients and the optimiser's state to fit into the memory of {self.device}, got: "
                f"{error}; use finetuning_type: lora, quantization_bit: 4, or FSDP over several GPUs"
            ) from error
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        computed = sum(trace.tokens for trace in traces)
        self.tokens += computed
        if self.count is not None:
            self.count(computed)
        return loss, norm

    def batches(self, examples: Sequence[Supervised]) -> Iterator[Batch]:
        """Yield this process's micro-batches. Every process has the same number, as sharded ones work in step."""
        together = self.micro_batch * self.group.count
        for start in range(0, len(examples), together):
            mine = examples[start + self.group.rank : start + together : self.group.count]
            yield collate(mine or [_without_loss(examples[-1])]).to(self.device)

    def within_memory(self, compute: Callable[[], float], model: Any, examples: Sequence[Supervised]) -> float:
        """Return what `compute` gives, summed over the processes; if it is too much for one of them, all take less."""
        while True:
            value, failure = 0.0, ""
            try:
                value = compute()
            except torch.OutOfMemoryError as error:
                failure = str(error) or "out of memory"
            # Outside the handler, so that the failed step's tensors are gone.
            if failure and self.group.sharded:  # the others wait inside a layer and cannot be told
                self.take_less(model, examples, failure)
                names = ("micro_batch", "recompute", "out_of_memory")
                raise StartAgainError({name: getattr(self, name) for name in names})
            failed, value = self.group.sum(float(bool(failure)), value)
            if not failed:
                return value
            self.optimizer.zero_grad(set_to_none=True)
            self.take_less(model, examples, failure or "out of memory in another process")

    def backward(self, model: Any, batch: Batch, total: float) -> float:
        """Add a micro-batch's share of the gradient; return its share of the loss."""
        share = batch_loss(model, batch, bf16=self.bf16) / total
        (share * self.group.loss_scale).backward()  # type: ignore[no-untyped-call]
        return float(share.detach())

    def take_less(self, model: Any, examples: Sequence[Supervised], failure: str) -> None:
        """Halve the micro-batch, which doubles the accumulation; where it is one row, keep fewer activations."""
        if self.micro_batch > 1:
            self.micro_batch = max(min(self.micro_batch, len(examples)) // 2, 1)
        elif not self.recompute:
            self.recompute = True
            _recompute(model)
        else:
            raise TrainingError(
                f"expected one row of {max(len(example.ids) for example in examples)} tokens to fit into the memory "
                f"of {self.device}, got: {failure}; lower cutoff_len, take a smaller model, or set quantization_bit: 4"
            )
        self.out_of_memory.append(
            {
                "step": self.step,
                "micro_batch": self.micro_batch,
                "accumulation": math.ceil(len(examples) / (self.micro_batch * self.group.count)),
                "recompute": self.recompute,
            }
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Begin with what was found to fit earlier, if something once did not."""
        if memory.get("out_of_memory"):
            self.micro_batch = min(self.micro_batch, memory["micro_batch"])
            self.recompute = self.recompute or memory["recompute"]
            self.out_of_memory = list(memory["out_of_memory"])

    def check_finite(self, what: str, value: float, examples: Sequence[Supervised]) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"expected a finite {what}, got {value} at step {self.step + 1} of {self.total} (rows "
                f"{', '.join(example.id for example in examples[:4])}, …); lower learning_rate, or set bf16: false"
            )

    # 3. -- held-out rows ------------------------------------------------------------------------------------------

    def evaluate(self, model: Any) -> None:
        """Measure the loss on the held-out rows, note it, and keep the weights if it is the lowest so far."""
        examples = [example for trace in self.held_out for example in trace.examples]
        examples.sort(key=lambda example: -len(example.ids))

        def compute() -> float:
            with torch.no_grad():
                return sum(float(batch_loss(model, batch, bf16=self.bf16)) for batch in self.batches(examples))

        model.eval()
        loss = self.within_memory(compute, model, examples)
        close(model)
        model.train()
        loss /= sum(trace.weight for trace in self.held_out)
        self.check_finite("loss on the held-out rows", loss, examples)
        entry = {"epoch": round(self.epoch, 4), "eval_loss": round(loss, 6), "step": self.step}
        self.history.append(entry)
        self.write_line({"eval_loss": entry["eval_loss"]})
        self.reporters.log({"eval_loss": loss}, step=self.step, epoch=self.epoch)
        if self.best is None or loss < self.best["eval_loss"]:
            self.best = {"step": self.step, "eval_loss": loss}
            if self.training.load_best_model_at_end:
                weights = self.group.collect(trainable(model))
                if self.group.first:
                    self.save_best(weights)
        self.write_state()

    def save_best(self, weights: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        with write.completing(self.out / f"{BEST}{self.step}") as folder:
            save_file(weights, str(folder / WEIGHTS))
        self.keep_best(self.step, *self.checkpointed_best())

    def restore_best(self, model: Any) -> None:
        """End with the weights of the lowest loss on the held-out rows, where that is asked for."""
        if self.training.load_best_model_at_end and self.best is not None:
            from safetensors.torch import load_file

            self.group.wait()
            restore(model, load_file(str(self.out / f"{BEST}{self.best['step']}" / WEIGHTS)))

    def checkpointed_best(self) -> list[int]:
        """Return the best steps that complete checkpoints may go back to."""
        return [state["best"]["step"] for _, state in self.checkpoints() if state.get("best")]

    def keep_best(self, *steps: int) -> None:
        for folder in self.out.glob(f"{BEST}*"):
            if folder.name not in {f"{BEST}{step}" for step in steps}:
                shutil.rmtree(folder)

    # 4. -- what is written down -----------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.started

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch

    def begin_log(self) -> None:
        """Start the log, or cut it back to the checkpoint that training goes on from."""
        if not self.group.first:
            return
        file = self.out / layout.TRAINER_LOG
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() and self.step else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["current_steps"] <= self.step]
        write.write_text(file, "".join(f"{line}\n" for line in kept))

    def log(self, rate: float, norm: float) -> None:
        since = next((entry["step"] for entry in reversed(self.history) if "loss" in entry), 0)
        loss = round(math.fsum(self.losses[since:]) / len(self.losses[since:]), 6)
        values = {"grad_norm": norm, "learning_rate": rate, "loss": loss}
        self.history.append({"epoch": round(self.epoch, 4), **values, "step": self.step})
        self.write_line({"loss": loss, "lr": rate})
        self.reporters.log(values, step=self.step, epoch=self.epoch)
        self.write_state()

    def write_line(self, values: dict[str, Any]) -> None:
        if not self.group.first:
            return
        remaining = self.elapsed / max(self.step, 1) * (self.total - self.step)
        line = {
            "current_steps": self.step,
            "total_steps": self.total,
            **values,
            "epoch": round(self.epoch, 4),
            "percentage": round(100 * self.step / self.total, 2),
            "elapsed_time": str(timedelta(seconds=int(self.elapsed))),
            "remaining_time": str(timedelta(seconds=int(remaining))),
        }
        write.append_text(self.out / layout.TRAINER_LOG, json.dumps(line) + "\n")

    def write_state(self) -> None:
        if not self.group.first:
            return
        best = (
            {} if self.best is None else {"best_metric": self.best["eval_loss"], "best_global_step": self.best["step"]}
        )
        write.write_json(
            self.out / layout.TRAINER_STATE,
            {
                **best,
                "epoch": self.epoch,
                "global_step": self.step,
                "max_steps": self.total,
                "num_train_epochs": math.ceil(self.total / self.steps_per_epoch),
                "train_batch_size": self.micro_batch,
                "logging_steps": self.training.logging_steps,
                "save_steps": self.save_steps,
                "log_history": self.history,
            },
        )

    @property
    def seen(self) -> int:
        """Traces trained on so far, each time it was its turn; the last effective batch of an epoch may be smaller."""
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        return epochs * len(self.traces) + min(steps * self.size, len(self.traces))

    def results(self) -> dict[str, Any]:
        seconds = max(self.elapsed_at_end, 1e-9)
        measured = [entry["eval_loss"] for entry in self.history if "eval_loss" in entry]
        held_out: dict[str, Any] = {}
        if self.best is not None:
            held_out = {"held_out_rows": len(self.held_out), "eval_loss": measured[-1], "best": self.best}
        return {
            "epoch": round(self.epoch, 4),
            "train_loss": math.fsum(self.losses) / len(self.losses),
            "train_runtime": seconds,
            "train_samples_per_second": self.seen / seconds,
            "train_steps_per_second": self.step / seconds,
            "tokens_per_second": self.tokens / seconds,
            "peak_memory_bytes": self.peak_memory,
            "steps": self.step,
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            **held_out,
            "rows": len(self.traces),
            "tokens_per_epoch": sum(trace.tokens for trace in self.traces),
            "supervised_tokens_per_epoch": sum(trace.weight for trace in self.traces),
            "trained_token_share": sum(trace.labels for trace in self.traces)
            / sum(trace.answer for trace in self.traces),
            "micro_batch": self.micro_batch,
            "gradient_accumulation": math.ceil(
                min(self.size, len(self.traces)) / (self.micro_batch * self.group.count)
            ),
            "processes": self.group.count,
            "sharded": self.group.sharded,
            "recompute": self.recompute,
            "out_of_memory": self.out_of_memory,
            "resumed_from": self.resumed_from,
            "changes": self.changes,
        }

    def end(self) -> None:
        """Let go of what only the loop needed."""
        self.peak_memory = self.group.largest(_peak_memory(self.device))
        self.optimizer = self.schedule = self.reporters = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # 5. -- checkpoints --------------------------------------------------------------------------------------------

    def checkpoint(self, model: Any) -> None:
        """Write everything needed to go on, complete or not at all; the checkpoint before it goes."""
        from safetensors.torch import save_file

        optimizer = self.optimizer.state_dict()
        moments = {f"{at}.{name}": value for at, each in optimizer["state"].items() for name, value in each.items()}
        weights, moments = self.group.collect(trainable(model)), self.group.collect(moments)
        if not self.group.first:
            return
        folder = self.out / f"{CHECKPOINT}{self.step}"
        with write.completing(folder) as temporary:
            save_file(weights, str(temporary / WEIGHTS))
            save_file(moments, str(temporary / OPTIMIZER))
            state = {
                "schema": SCHEMA,
                "param_groups": optimizer["param_groups"],
                "schedule": self.schedule.state_dict(),
                "key": self.key,
                "step": self.step,
                "losses": self.losses,
                "history": self.history,
                "micro_batch": self.micro_batch,
                "recompute": self.recompute,
                "out_of_memory": self.out_of_memory,
                "best": self.best,
                "machine": self.machine(),
                "changes": self.changes,
                "tokens": self.tokens,
                "elapsed": self.elapsed,
            }
            (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        for other, _ in self.checkpoints():
            if other != folder:
                shutil.rmtree(other)

    def machine(self) -> dict[str, Any]:
        """Return what may change the last digits of a number, and nothing more."""
        on_gpu = self.device.startswith("cuda")
        return {
            "device": torch.cuda.get_device_name() if on_gpu else self.device,
            "processes": self.group.count,
            "micro_batch": self.micro_batch,
            "torch": str(torch.__version__),
        } | ({} if on_gpu else {"threads": torch.get_num_threads()})

    def note_changes(self, state: Mapping[str, Any]) -> None:
        """Note what is otherwise now than when a checkpoint was written."""
        before, now = state.get("machine") or {}, self.machine()
        changed = {name: [before[name], now[name]] for name in now if name in before and before[name] != now[name]}
        self.changes = [*state.get("changes", ()), *([{"step": state["step"], **changed}] if changed else [])]

    def checkpoints(self) -> list[tuple[Path, dict[str, Any]]]:
        """Return the complete checkpoints of this very training, oldest first."""
        found = []
        for file in self.out.glob(f"{CHECKPOINT}*/{STATE}"):
            state = json.loads(file.read_text(encoding="utf-8"))
            files = (file.with_name(name) for name in (WEIGHTS, OPTIMIZER))
            if state["key"] == self.key and all(each.is_file() for each in files):
                found.append((file.parent, state))
        return sorted(found, key=lambda item: item[1]["step"])

    def resume(self, model: Any) -> None:
        found = self.checkpoints()
        if not found:
            return
        folder, state = found[-1]
        restore(model, _load(folder / WEIGHTS))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in sorted(_load(folder / OPTIMIZER).items()):  # in one order on all processes
            at, _, name = key.partition(".")
            like = parameters[int(at)]
            moments.setdefault(int(at), {})[name] = part_of(value, like) if value.shape == like.shape else value
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.schedule.load_state_dict(state["schedule"])
        self.step = self.resumed_from = state["step"]
        self.losses, self.history = state["losses"], state["history"]
        if len(state["out_of_memory"]) > len(self.out_of_memory):
            self.remember(state)
        self.note_changes(state)
        self.best, self.tokens, self.earlier = state["best"], state["tokens"], state["elapsed"]


def _load(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(file)))
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"expected tensors to go on from in {file}, got: {error}; it was left as it is: move its folder away, and "
            "run the same command again to train from the beginning"
        ) from error


def _recompute(model: Any) -> None:
    """Keep fewer activations. The method's older name is deprecated where the newer one exists."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _peak_memory(device: str) -> int:
    """Return the most bytes in use: of the device, or of this process where it computes in ordinary memory."""
    return int(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else host_peak()


def _without_loss(example: Supervised) -> Supervised:
    """Return a row for a process that has none left while others have."""
    return replace(example, weights=(0.0,) * len(example.weights), more=())


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step's dropout in a process, so that a resumed training draws the same."""
    text = f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
