"""The rows that `sft` trains on: what decides them, how they are built, and how they are written for other trainers.

found = guard(job, source)
hash = data_hash(experiment, source, base, found.leaked)
build_rows(job, source, base, hash, found)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from unsay import identity
from unsay.augment import Answer, Vocabulary
from unsay.config import Experiment
from unsay.data import build, export
from unsay.data.source import Source, open_source, training_examples
from unsay.definitions import Model
from unsay.errors import DataError, TrainingError
from unsay.evaluate.lm_eval_tasks import question_prompts, question_template
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report
from unsay.methods._guard import MEMORY, Guard, guard_of
from unsay.methods._sampling import write_answers
from unsay.methods._trained import open_trained
from unsay.records import Example
from unsay.settings import Training, UndoData
from unsay.store import layout, shared, write


def guard(job: Job, source: Source) -> Guard:
    """Return what a job's training examples must not be."""
    return guard_of(job, source, _examples(job.experiment, source))


def data_hash(experiment: Experiment, source: Source, base: Opened, leaked: Sequence[str] = ()) -> str:
    training = _training(experiment)
    # The evaluation splits count too: they decide which training rows are refused as leaks. Those of other datasets
    # count by what they do, so that another experiment in the file changes nothing as long as it shares no question.
    files = {split: identity.fingerprint(path) for split, path in source.files.items()}
    template = question_template(source)
    return identity.data_hash(
        dataset=identity.sha256_of(files or f"hub:{source.hub}"),
        format=experiment.dataset.format,
        columns=experiment.dataset.columns,
        template=f"{base.template}\nenable_thinking={experiment.settings.prompting.enable_thinking}",
        doc_to_text=template if isinstance(template, str) else inspect.getsource(template),
        undo=experiment.settings.undo,
        undo_table=base.table.sha256(),
        tokenizer=base.prompter.fingerprint,
        cutoff_len=training.cutoff_len,
        max_samples=training.max_samples,
        seed=experiment.seed,
        leaked=leaked,
    )


def build_rows(
    job: Job,
    source: Source,
    base: Opened,
    data_hash: str,
    guard: Guard,
    *,
    report: Report | None = None,
    processes: int = 1,
) -> build.Manifest:
    """Build the rows of a job and write them into the folder of its training; see `Guard.check` for what is refused."""
    guard.check(job)
    experiment, training = job.experiment, _training(job.experiment)
    undo, thinking = experiment.settings.undo, experiment.settings.prompting.enable_thinking
    examples = _examples(experiment, source)
    turns = dict(zip((example.id for example in examples), question_prompts(source, examples), strict=True))

    def encode_prompt(example: Example) -> tuple[int, ...]:
        message = {"role": "user", "content": turns[example.id]}
        return base.prompter.encode_chat([message], enable_thinking=thinking).ids

    def progress(done: int) -> None:
        if report is not None and (done % 100 == 0 or done == len(examples)):
            report({"event": "progress", "stage": "data", "done": done, "total": len(examples)})

    return build.build(
        examples,
        build.Encoding(
            prompt=encode_prompt,
            answer=lambda text: Answer(*base.prompter.encode_answer(text), text),
            end_id=base.prompter.end_id,
            vocabulary=None if undo is None else _vocabulary(base),
            tokenizer=base.prompter.fingerprint,
            pieces=base.prompter.pieces,
        ),
        undo,
        cutoff_len=training.cutoff_len,
        seed=experiment.seed,
        folder=job.train_folder,
        leaks=guard.leaks,
        facts={
            "data_hash": data_hash,
            "trained_as": shared.trained_as(identity.spec(experiment)),
            "tokenizer": base.prompter.fingerprint,
            "template": base.template,
            "enable_thinking": thinking,
            "prompt_0": turns[examples[0].id],
            "model": dataclasses.asdict(experiment.model),
            "compared_with": guard.compared,
            "not_compared_with": guard.not_read | guard.not_compared,
            MEMORY: guard.memory,
        },
        processes=processes,
        progress=progress,
    )


def prepare(job: Job, report: Report, *, sample: int | None, sampler: Model | None, processes: int) -> dict[str, Any]:
    """Build a job's rows without training; see `Sft.prepare`."""
    experiment, folder = job.experiment, job.train_folder
    _training(experiment)
    source = open_source(experiment.dataset, job.output_dir)
    base = open_model(experiment.model, device=job.device, dtype=job.dtype, undo=experiment.settings.undo)
    found: dict[str, Any] = {"folder": str(layout.data(folder))}
    compared = guard(job, source)
    if sample is not None:
        compared.check(job)
        report({"event": "stage", "stage": "sample"})
        answering = base if sampler is None else open_trained(sampler, job)
        found["sampled"] = str(
            write_answers(job, source, _examples(experiment, source), base, answering, sample, report)
        )
    report({"event": "stage", "stage": "data"})
    wanted = data_hash(experiment, source, base, compared.leaked)
    path = layout.data(folder) / layout.MANIFEST
    if path.exists():
        manifest = build.load_manifest(folder)
        before = str(manifest.facts.get("data_hash", ""))
        if before == wanted and not job.force:
            return found | manifest.to_json() | {"built": False}
        if (layout.train(folder) / layout.TRAINED).exists():
            raise DataError(
                f"{folder}: expected rows that nothing was trained on yet, got a training beside them; "
                "`unsay run` moves both aside and trains on new rows (with --force also where nothing has changed)"
            )
        compared.check(job)
        write.supersede(folder, [layout.DATA], before or "rows")
    manifest = build_rows(job, source, base, wanted, compared, report=report, processes=processes)
    return found | manifest.to_json() | {"built": True}


def _training(experiment: Experiment) -> Training:
    training = experiment.settings.training
    if training is None:
        raise TrainingError(
            f"experiment {experiment.folder} has no training settings. Use a config such as lora/train."
        )
    return training


def _examples(experiment: Experiment, source: Source) -> list[Example]:
    examples = list(islice(training_examples(source, experiment.dataset), _training(experiment).max_samples))
    if not examples:
        raise DataError(f"dataset {source.name!r}: expected questions in split 'train', got none. Add a train.jsonl.")
    return examples


def _vocabulary(base: Opened) -> Vocabulary:
    return Vocabulary(base.table, base.prompter.ordinary_ids, base.prompter.encode_text, base.prompter.lines_apart)


# -- for other trainers -----------------------------------------------------------------------------------------------


def export_rows(folder: Path, out: Path, *, to: str, style: str) -> dict[str, Any]:
    """Write the rows below `folder` for another trainer; see `unsay.data.export`."""
    manifest = build.load_manifest(folder)
    rows = build.load_rows(folder)
    settings = manifest.settings.get("undo")
    undo = None if settings is None else UndoData(**settings)
    if to == export.TRL:
        lines: Iterator[Mapping[str, Any] | export.Refused] = export.trl(rows, undo.mask if undo else "none")
    else:
        lines = export.llamafactory(rows, _texts(manifest, undo), style=style)
    return export.write_file(out, lines)


def _texts(manifest: build.Manifest, undo: UndoData | None) -> export.Texts:
    """Open the tokenizer that the rows were made with."""
    known = manifest.facts.get("model")
    if not isinstance(known, dict):
        raise DataError("expected rows that name their model, got those of an earlier release; build the data again")
    prompter = open_model(Model(**known), device="cpu", undo=undo).prompter
    if prompter.fingerprint != manifest.facts.get("tokenizer"):
        raise DataError(
            f"expected the tokenizer that the rows were made with, got another one from {known['path']}; "
            "build the data again"
        )
    thinking = bool(manifest.facts.get("enable_thinking", False))

    def render(turn: str) -> str:
        return prompter.render([{"role": "user", "content": turn}], enable_thinking=thinking)

    return export.Texts(
        text_of=prompter.text_of,
        encode=lambda text: tuple(prompter.tokenizer.encode(text, add_special_tokens=False)),
        render=render,
    )
