"""Several processes train what one does: the same losses and weights, one set of files, one decision for all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3ForCausalLM

from tests.unit.train.processes import RaisedError, together
from tests.unit.train.test_sft import Setting
from unsay.settings import Training, UndoData
from unsay.train import loop
from unsay.train.group import Group, StartAgainError
from unsay.train.sft import TrainResult

Folders = Callable[..., Path]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that uses a GPU cannot be forked")

# Eight rows, two of them held out, in batches of five and one: at the end of an epoch a process has none left.
TRAINING = Training(
    learning_rate=1e-2,
    row_learning_rate=3e-2,
    weight_decay=0.1,
    max_steps=4,
    warmup_ratio=0.0,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=5,
    val_size=0.25,
    eval_steps=2,
    load_best_model_at_end=True,
    logging_steps=1,
    save_steps=2,
)
QUICK = [("lora", False), ("full", True)]
WAYS = [*QUICK, *(pytest.param(*way, marks=pytest.mark.slow) for way in (("full", False), ("lora", True)))]


@pytest.fixture(scope="module")
def setting(tiny_models: Folders) -> Setting:
    return Setting(tiny_models())


@pytest.fixture(scope="module")
def alone(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainResult]:
    """Return a function that gives the training of one process, done once per tuning."""
    done: dict[str, TrainResult] = {}

    def get(tuning: str) -> TrainResult:
        if tuning not in done:
            out = tmp_path_factory.mktemp(f"alone_{tuning}")
            done[tuning] = setting.train(out, replace(TRAINING, finetuning_type=tuning))  # type: ignore[arg-type]
        return done[tuning]

    return get


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = [*folder.glob("adapter_model.safetensors"), *folder.glob("model.safetensors")]
    return load_file(file)


def measured(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("loss", "eval_loss") if name in line]


def assert_same(folder: Path, expected: TrainResult) -> None:
    """The losses to 1e-5, the weights as near as additions in another order leave them."""
    assert measured(folder) == pytest.approx(measured(expected.folder), abs=1e-5)
    first, second = weights(folder), weights(expected.folder)
    assert first.keys() == second.keys()
    assert all((first[name] - second[name]).abs().max() < 1e-4 for name in first)


@pytest.mark.parametrize(("tuning", "sharded"), WAYS)
def test_two_processes_give_the_numbers_of_one(
    tuning: str, sharded: bool, setting: Setting, alone: Callable[[str], TrainResult], tmp_path: Path
) -> None:
    expected = alone(tuning)
    training = replace(TRAINING, finetuning_type=tuning, per_device_train_batch_size=1)  # type: ignore[arg-type]
    cut = tmp_path / "cut"

    def work(group: Group) -> tuple[tuple[float, ...], dict[str, Any]]:
        def keep(step: int, total: int, loss: float) -> None:
            if step == 3 and group.first:
                shutil.copytree(tmp_path / "out", cut)

        result = setting.train(tmp_path / "out", training, group=group, progress=keep)
        return result.losses, result.results

    (losses, results), (others, nothing) = together(work, sharded=sharded)
    assert losses == others == pytest.approx(expected.losses, abs=1e-5)
    assert nothing == {}
    assert (results["processes"], results["sharded"]) == (2, sharded)
    assert (results["micro_batch"], results["gradient_accumulation"]) == (1, 3)
    assert expected.results["gradient_accumulation"] == 5
    assert results["best"]["step"] == expected.results["best"]["step"]
    assert results["tokens_per_epoch"] == expected.results["tokens_per_epoch"]
    assert_same(tmp_path / "out", expected)

    # What two processes began one goes on with, and the other way round.
    resumed = setting.train(cut, training)
    assert resumed.results["resumed_from"] == 2
    assert_same(cut, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("tuning", "sharded"), [*QUICK, ("full", False), ("lora", True)])
def test_two_processes_go_on_where_one_was_stopped(
    tuning: str, sharded: bool, setting: Setting, alone: Callable[[str], TrainResult], tmp_path: Path
) -> None:
    training = replace(TRAINING, finetuning_type=tuning)  # type: ignore[arg-type]

    class StopError(Exception):
        pass

    def stop(step: int, total: int, loss: float) -> None:
        if step == 3:
            raise StopError

    with pytest.raises(StopError):
        setting.train(tmp_path, training, progress=stop)
    # Other micro-batches as well: what counts is the effective batch.
    split = replace(training, per_device_train_batch_size=5, gradient_accumulation_steps=1)
    (first, _) = together(lambda group: setting.train(tmp_path, split, group=group).results, sharded=sharded)
    assert first["resumed_from"] == 2
    assert_same(tmp_path, alone(tuning))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"bf16": True}, {"lora_dropout": 0.1}], ids=str)
def test_settings_that_change_how_a_step_is_computed(
    options: dict[str, Any], sharded: bool, setting: Setting, tmp_path: Path
) -> None:
    training = replace(TRAINING, max_steps=2, val_size=0.0, load_best_model_at_end=False, **options)
    one = setting.train(tmp_path / "one", training, UndoData(context="rewind"))
    undo = UndoData(context="rewind")
    two, _ = together(lambda group: setting.train(tmp_path / "two", training, undo, group=group), sharded=sharded)
    exact = "gradient_checkpointing" in options
    assert two.losses == pytest.approx(one.losses, abs=1e-5 if exact else 0.05)
    assert two.results["gate"]["merged"] <= two.results["gate"]["tolerance"]


def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model of the second process hold one row at a time."""
    forward = Qwen3ForCausalLM.forward

    def short(self: Any, input_ids: torch.Tensor, **rest: Any) -> Any:
        if input_ids.shape[0] > 1 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", short)


def test_when_one_process_runs_out_of_memory_all_take_less(
    setting: Setting, alone: Callable[[str], TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch)
    training = replace(TRAINING, per_device_train_batch_size=5, gradient_accumulation_steps=1)
    first, second = together(lambda group: setting.train(tmp_path, training, group=group))
    assert first.losses == second.losses == pytest.approx(alone("lora").losses, abs=1e-5)
    assert [event["micro_batch"] for event in first.results["out_of_memory"]] == [1]
    assert first.results["gradient_accumulation"] == 3


@pytest.mark.slow
def test_sharded_processes_that_run_out_of_memory_begin_again(
    setting: Setting, alone: Callable[[str], TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch)
    training = replace(TRAINING, per_device_train_batch_size=5, gradient_accumulation_steps=1)

    def work(group: Group, memory: Any = None) -> Any:
        try:
            return setting.train(tmp_path, training, group=group, memory=memory)
        except StartAgainError as error:
            return error.memory

    other, memory = together(work, sharded=True)
    assert isinstance(other, RaisedError), "the first one is told by the end of the second"
    assert (memory["micro_batch"], memory["recompute"]) == (1, False)
    first, _ = together(lambda group: work(group, memory), sharded=True)
    assert first.losses == pytest.approx(alone("lora").losses, abs=1e-5)
    assert first.results["out_of_memory"] == memory["out_of_memory"]


def test_a_loss_that_is_no_number_stops_all(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.batch_loss

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        loss = real(*arguments, **options)
        return loss * float("nan") if torch.distributed.get_rank() == 1 else loss

    monkeypatch.setattr(loop, "batch_loss", broken)
    raised = together(lambda group: setting.train(tmp_path, TRAINING, group=group))
    assert len({str(error) for error in raised}) == 1
    assert "finite loss, got nan at step 1 of 4" in str(raised[0])


def test_a_gradient_that_one_process_lacks_is_the_others(tmp_path: Path) -> None:
    def work(group: Group) -> list[Any]:
        both, one, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad = torch.full((2,), 1.0 + group.rank)
        if group.rank == 1:
            one.grad = torch.full((2,), 5.0)
        group.add_gradients([both, one, none])
        return [each.grad if each.grad is None else each.grad.tolist() for each in (both, one, none)]

    assert together(work) == [[[3.0, 3.0], [5.0, 5.0], None]] * 2
