"""Training that really learns: when to take back, measured; and what a training measures, keeps, draws and reports."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.train.test_sft import FAST, Setting
from unsay.errors import TrainingError
from unsay.loading import load_model
from unsay.records import ERROR, UNDO, Row
from unsay.settings import Training, UndoData
from unsay.train import loop, sft
from unsay.train.collate import Supervised, order
from unsay.train.loss import batch_loss
from unsay.train.traces import Trace, hold_out
from unsay.undo import check_row, resolve

Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def setting(tiny_models: Folders) -> Setting:
    return Setting(tiny_models())


# -- it learns --------------------------------------------------------------------


def planted(setting: Setting, count: int) -> list[Row]:
    """Return answers with one to three wrong tokens somewhere, each taken back; every fourth has none."""
    rng = random.Random(1)
    undo = setting.table.control("pop")
    assert undo is not None
    end = setting.prompter.end_id
    ordinary = sorted(setting.prompter.ordinary_ids)
    rows = []
    for number in range(count):
        question = {"role": "user", "content": f"Tom has {number} apples and buys {number % 7} more."}
        prompt = setting.prompter.encode_chat([question]).ids
        answer = setting.prompter.encode_answer(f"{number} + {number % 7} = {number + number % 7}\n#### {number}")[0]
        wrong = [] if number % 4 == 0 else rng.sample(sorted({*ordinary} - {*answer}), rng.randint(1, 3))
        place = rng.randrange(1, len(answer))
        ids = (*answer[:place], *wrong, *[undo] * len(wrong), *answer[place:], end)
        rest = len(answer) - place
        letters = "c" * place + "e" * len(wrong) + "u" * len(wrong) + ("k" + "c" * rest if wrong else "c" * (rest + 1))
        rows.append(Row(f"r{number}", prompt, ids, letters))
        check_row(rows[-1], answer, setting.table, {end})
    return rows


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_model_learns_where_an_undo_belongs(tuning: str, tiny_models: Folders, tmp_path: Path) -> None:
    # LoRA leaves the output head as it is: with less width its random logits could not be sure of anything.
    setting = Setting(tiny_models(hidden=64 if tuning == "full" else 128, seed=3))
    rows = planted(setting, 32)
    training = Training(
        finetuning_type=tuning,  # type: ignore[arg-type]
        lora_rank=32,
        lora_alpha=128,
        learning_rate=4e-3,
        max_steps=120,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        save_steps=1000,
    )
    result = setting.train(tmp_path, training, UndoData(clean_share=0.25), rows=rows)
    assert result.losses[-1] < 0.1 < 1 < result.losses[0]
    model = load_model(setting.path, None, tmp_path)
    undo = setting.table.control("pop")
    belongs, elsewhere = [], []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.prompt_ids + row.ids])).logits[0]
        said = logits.softmax(-1)[len(row.prompt_ids) - 1 : -1, undo]
        standing = 0  # mistakes not taken back yet: while one stands, an undo is never out of place
        for letter, probability in zip(row.provenance, said.tolist(), strict=True):
            if letter == UNDO:
                belongs.append(probability)
            elif not standing:
                elsewhere.append(probability)
            standing += (letter == ERROR) - (letter == UNDO)
    assert len(belongs) > 40
    assert min(belongs) > 0.9
    assert max(elsewhere) < 0.1


# -- held-out rows, the best weights, the picture ---------------------------------


def test_the_loss_is_measured_on_rows_that_are_not_trained_on(setting: Setting, tmp_path: Path) -> None:
    training = replace(FAST, max_steps=6, val_size=0.25, eval_steps=2)
    seen: list[str] = []
    real = loop.collate

    def note(examples: Any) -> Any:
        if torch.is_grad_enabled():
            seen.extend(example.id for example in examples)
        return real(examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "collate", note)
        result = setting.train(tmp_path, training)
    assert (result.results["rows"], result.results["held_out_rows"]) == (6, 2)
    assert len(set(seen)) == 6
    held = [row for row in setting.rows if row.id not in seen]
    lines = [json.loads(line) for line in (tmp_path / "trainer_log.jsonl").read_text().splitlines()]
    measured = [(line["current_steps"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    assert [step for step, _ in measured] == [2, 4, 6]

    # The last figure is the loss of what was saved, on the rows nothing was trained on.
    model = load_model(setting.path, None, tmp_path)
    traces = sft._traces(held, setting.table, UndoData(), packed=False)
    with torch.no_grad():
        loss = float(batch_loss(model, real([example for trace in traces for example in trace.examples])))
    assert measured[-1][1] == pytest.approx(loss / sum(trace.weight for trace in traces), abs=2e-6)
    assert result.results["eval_loss"] == measured[-1][1]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_best_weights_are_kept(tuning: str, setting: Setting, tmp_path: Path) -> None:
    """Rates far too high: the loss on held-out rows falls first and rises later."""
    training = replace(
        FAST,
        finetuning_type=tuning,  # type: ignore[arg-type]
        learning_rate=0.1 if tuning == "lora" else 0.03,
        max_steps=20,
        val_size=0.25,
        eval_steps=2,
        save_steps=6,
        lr_scheduler_type="constant",
    )
    last = setting.train(tmp_path / "last", training)
    best = setting.train(tmp_path / "best", replace(training, load_best_model_at_end=True))
    figures = {
        entry["step"]: entry["eval_loss"]
        for entry in json.loads((tmp_path / "best" / "trainer_state.json").read_text())["log_history"]
        if "eval_loss" in entry
    }
    step = min(figures, key=lambda step: figures[step])
    assert step < 20, "the last weights are the best, so nothing is shown"
    assert best.results["best"]["step"] == step
    assert best.losses == last.losses
    held = hold_out(sft._traces(setting.rows, setting.table, UndoData(), packed=False), 0.25, 0)[1]
    loss = {}
    for name in ("last", "best"):
        model = load_model(setting.path, None, tmp_path / name)
        with torch.no_grad():
            whole = float(batch_loss(model, loop.collate([example for trace in held for example in trace.examples])))
        loss[name] = whole / sum(trace.weight for trace in held)
    assert loss["best"] == pytest.approx(figures[step], abs=2e-6)
    assert loss["last"] == pytest.approx(figures[20], abs=2e-6)

    # Stopped after the best step and resumed, it ends with the same weights.
    class StopError(Exception):
        pass

    def stop(at: int, total: int, loss: float) -> None:
        if at == 19:
            raise StopError

    with pytest.raises(StopError):
        setting.train(tmp_path / "cut", replace(training, load_best_model_at_end=True), progress=stop)
    resumed = setting.train(tmp_path / "cut", replace(training, load_best_model_at_end=True))
    assert resumed.results["resumed_from"] == 18
    name = "adapter_model.safetensors" if tuning == "lora" else "model.safetensors"
    first, second = (load_file(tmp_path / folder / name) for folder in ("best", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_too_few_rows_to_hold_some_out_are_refused(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"val_size: expected to leave rows to train on, got 0\.9 of 1 rows"):
        setting.train(tmp_path, replace(FAST, val_size=0.9), rows=setting.rows[:1])


def test_rows_of_one_question_are_held_out_together() -> None:
    traces = [Trace((Supervised(str(n), (1, n), (n, 2), (0.0, 1.0)),), (1, n // 3), 3, 2) for n in range(30)]
    kept, held = hold_out(traces, 0.2, 7)
    assert len(held) == 6
    assert not {trace.prompt for trace in kept} & {trace.prompt for trace in held}
    assert sorted([*kept, *held], key=traces.index) == traces
    assert hold_out(traces, 0.2, 7)[1] == held != hold_out(traces, 0.2, 8)[1]
    with pytest.raises(TrainingError, match=r"got 0\.5 of 3 rows of 1 questions"):
        hold_out(traces[:3], 0.5, 0)


def test_the_curve_is_a_picture_for_a_page_and_one_for_a_paper(setting: Setting, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        setting.train(tmp_path / name, replace(FAST, val_size=0.25, eval_steps=2))
    png = (tmp_path / "one" / "training_loss.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    tree = ElementTree.parse(tmp_path / "one" / "training_loss.svg")
    texts = {element.text for element in tree.iter() if element.tag.endswith("}text")}
    assert {"optimiser step", "training", "held out"} <= texts
    for file in ("training_loss.png", "training_loss.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_speed_and_memory_are_recorded(setting: Setting, tmp_path: Path) -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    result = setting.train(tmp_path, replace(FAST, max_steps=3, save_steps=100))
    results = result.results
    computed = results["tokens_per_second"] * results["train_runtime"]
    longest = max(len(row.prompt_ids) + len(row.ids) - 1 for row in setting.rows)
    assert computed == pytest.approx(3 * 4 * longest, rel=1e-6)  # every row is of that length
    assert before / 2 < results["peak_memory_bytes"] < psutil.virtual_memory().total


# -- reports ----------------------------------------------------------------------


def test_tensorboard_gets_the_log(setting: Setting, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = setting.train(tmp_path, replace(FAST, report_to="tensorboard", val_size=0.25, eval_steps=2))
    (folder,) = {file.parent for file in (tmp_path / "runs").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4, 6]
    assert losses[0].value == pytest.approx(sum(result.losses[:2]) / 2, rel=1e-5)
    assert [event.step for event in events.Scalars("eval/loss")] == [2, 4, 6]


def test_nothing_is_reported_unless_asked_for(setting: Setting, tmp_path: Path) -> None:
    setting.train(tmp_path, replace(FAST, max_steps=1))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_integration_is_named(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"report_to: expected names .* got 'tensorbord'"):
        setting.train(tmp_path, replace(FAST, report_to="tensorbord"))


# -- what ends a training ---------------------------------------------------------


def test_weights_that_are_not_numbers_stop_training_with_the_rows_named(tiny_models: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models(tie=False, seed=7), folder)
    model = load_model(str(folder), None)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(TrainingError, match=r"finite loss, got nan at step 1 of 6 \(rows r\d"):
        Setting(folder).train(tmp_path / "out")


def test_a_gradient_without_end_stops_training(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.batch_loss

    def steep(*arguments: Any, **options: Any) -> torch.Tensor:
        loss = real(*arguments, **options)
        return loss + (loss - loss.detach()) * 1e38 * 1e38

    monkeypatch.setattr(loop, "batch_loss", steep)
    with pytest.raises(TrainingError, match=r"finite (gradient|loss), got (inf|nan) at step 1"):
        setting.train(tmp_path)


def test_rows_beyond_the_models_positions_are_refused(setting: Setting, tmp_path: Path) -> None:
    row = setting.rows[0]
    long = replace(row, id="long", prompt_ids=row.prompt_ids * 60)
    assert len(long.prompt_ids) > 1024
    with pytest.raises(TrainingError, match=r"at most 1024 tokens.* in row long; set cutoff_len: 1024"):
        setting.train(tmp_path, replace(FAST, cutoff_len=4096), rows=[*setting.rows, long])


# -- the curriculum ---------------------------------------------------------------


def test_a_curriculum_goes_from_shallow_to_deep_once() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 50) for _ in range(700)]
    depths = [rng.randint(0, 5) for _ in range(700)]
    batches = order(lengths, size=4, seed=0, epoch=0, depths=depths)
    assert sorted(index for batch in batches for index in batch) == list(range(700))
    means = [sum(depths[index] for index in batch) / len(batch) for batch in batches]
    thirds = [means[: len(means) // 3], means[len(means) // 3 : 2 * len(means) // 3], means[2 * len(means) // 3 :]]
    averages = [sum(third) / len(third) for third in thirds]
    assert averages[0] + 1 < averages[1] < averages[2] - 1


def test_the_depth_of_a_row_is_its_longest_run_of_undos(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = planted(setting, 70)
    seen: list[str] = []
    real = loop.collate

    def note(examples: Any) -> Any:
        seen.extend(example.id for example in examples)
        return real(examples)

    monkeypatch.setattr(loop, "collate", note)
    one = replace(FAST, per_device_train_batch_size=1, gradient_accumulation_steps=1, save_steps=1000)
    setting.train(tmp_path, replace(one, max_steps=140, curriculum="depth"), rows=rows)
    undos = {row.id: resolve(row.ids, setting.table).counts.undos for row in rows}
    first, second = ([undos[id] for id in seen[start : start + 70]] for start in (0, 70))
    pools = [first[start : start + 16] for start in range(0, 70, 16)]
    assert all(max(pool) <= min(later) for pool, later in pairwise(pools))
    assert sorted(first) == sorted(second)
    assert max(second[:16]) > min(second[16:])
