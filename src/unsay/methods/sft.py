"""Fine-tunes on the training split, with or without undo, then evaluates zero-shot."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from unsay import identity
from unsay.augment import Answer, Vocabulary
from unsay.config import Experiment
from unsay.data import build
from unsay.data.source import Source, open_source
from unsay.errors import DataError, TrainingError
from unsay.evaluate.evaluate import evaluate_job
from unsay.evaluate.lm_eval_tasks import question_prompts, question_template
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report, Result
from unsay.records import SCHEMA, Example
from unsay.settings import Training
from unsay.store import layout, read, write
from unsay.train.sft import dtype_of, train


@dataclass(frozen=True)
class Sft:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        base = open_model(experiment.model, device=job.device, dtype=job.dtype, undo=experiment.settings.undo)
        training = _training(experiment)
        hashes = {"data": _data_hash(experiment, source, base)}
        hashes["train"] = identity.train_hash(
            data=hashes["data"],
            weights=base.weights,
            training=training,
            undo=experiment.settings.undo,
            seed=experiment.seed,
            dtype=dtype_of(training, base.device),
        )
        # --force trains again, too; only with a limit, or where the training is another experiment's, it does not.
        again = job.force and job.limit is None and job.train_folder == job.folder
        _make_room(job.train_folder, hashes, again=again)

        # 1. Training rows: ids with the origin of every token.
        report({"event": "stage", "stage": "data"})
        if not (layout.data(job.train_folder) / layout.MANIFEST).exists():
            _build_rows(job, source, base, hashes["data"])

        # 2. Training, from its newest checkpoint if there is one.
        report({"event": "stage", "stage": "train"})
        trained = _train(job, base, training, hashes["train"], report)

        # 3. Evaluation of what was trained, on exactly the prompts it was trained with.
        adapter = layout.train(job.train_folder)
        opened = open_model(
            experiment.model, device=job.device, dtype=job.dtype, adapter=adapter, weights=hashes["train"]
        )
        result = evaluate_job(job, source, opened, report)
        return replace(result, hashes=result.hashes | hashes, facts=result.facts | {"training": trained})


def _training(experiment: Experiment) -> Training:
    training = experiment.settings.training
    if training is None:
        raise TrainingError(
            f"experiment {experiment.folder} has no training settings. Use a config such as lora/train."
        )
    return training


def _data_hash(experiment: Experiment, source: Source, base: Opened) -> str:
    training = _training(experiment)
    # The evaluation splits count too: they decide which training rows are refused as leaks.
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
    )


def _make_room(folder: Path, hashes: dict[str, str], *, again: bool) -> None:
    """Move other rows, another training and the result that came from them aside; with `again` the same ones, too."""
    manifest, trained = _json(layout.data(folder) / layout.MANIFEST), _json(layout.train(folder) / layout.TRAINED)
    stale = []
    if manifest is not None and (again or manifest["facts"].get("data_hash") != hashes["data"]):
        stale.append(layout.DATA)
    if trained is not None and (again or trained["train_hash"] != hashes["train"]):
        stale.append(layout.TRAIN)
    if not stale:
        return
    record = read.record(folder)
    if record is not None and record.hashes.get("train", hashes["train"]) != hashes["train"]:
        write.set_aside(folder, record)
    write.supersede(folder, stale, trained["train_hash"] if trained is not None else "rows")


def _build_rows(job: Job, source: Source, base: Opened, data_hash: str) -> None:
    experiment, training = job.experiment, _training(job.experiment)
    undo, thinking = experiment.settings.undo, experiment.settings.prompting.enable_thinking
    examples = list(islice(source.examples("train"), training.max_samples))
    if not examples:
        raise DataError(f"dataset {source.name!r}: expected questions in split 'train', got none. Add a train.jsonl.")
    turns = dict(zip((example.id for example in examples), question_prompts(source, examples), strict=True))

    def encode_prompt(example: Example) -> tuple[int, ...]:
        message = {"role": "user", "content": turns[example.id]}
        return base.prompter.encode_chat([message], enable_thinking=thinking).ids

    build.build(
        examples,
        build.Encoding(
            prompt=encode_prompt,
            answer=lambda text: Answer(*base.prompter.encode_answer(text), text),
            end_id=base.prompter.end_id,
            vocabulary=None if undo is None else _vocabulary(base),
        ),
        undo,
        cutoff_len=training.cutoff_len,
        seed=experiment.seed,
        folder=job.train_folder,
        evaluation=[example for split in ("dev", "test") for example in source.examples(split)],
        facts={
            "data_hash": data_hash,
            "tokenizer": base.prompter.fingerprint,
            "template": base.template,
            "prompt_0": turns[examples[0].id],
        },
    )


def _json(path: Path) -> dict[str, Any] | None:
    """Return one of our JSON files; None where there is none."""
    return dict(read.read_json(path)) if path.exists() else None


def _vocabulary(base: Opened) -> Vocabulary:
    return Vocabulary(base.table, base.prompter.ordinary_ids, lambda text: base.prompter.encode_answer(text)[0])


def _train(job: Job, base: Opened, training: Training, train_hash: str, report: Report) -> dict[str, Any]:
    """Train unless it is done, going on from an unfinished one; return the training's results."""
    folder = layout.train(job.train_folder)
    state = _json(folder / layout.TRAINED) or {"schema": SCHEMA, "train_hash": train_hash, "completed": False}
    if not state["completed"]:
        write.write_json(folder / layout.TRAINED, state)
        result = train(
            build.load_rows(job.train_folder),
            model_path=job.experiment.model.path,
            revision=base.facts["revision"] or job.experiment.model.revision,
            tokenizer=base.tokenizer,
            table=base.table,
            training=training,
            undo=job.experiment.settings.undo,
            seed=job.experiment.seed,
            out=folder,
            device=base.device,
            trust_remote_code=job.experiment.model.trust_remote_code,
            progress=lambda step, total, loss: report(
                {"event": "progress", "stage": "train", "done": step, "total": total, "loss": loss}
            ),
        )
        state |= {"completed": True, "results": result.results, "identities": []}
    # Who may evaluate this adapter as a finished experiment's: every experiment that trained, or shares, exactly it.
    mine = identity.identity(job.experiment)
    if mine not in state["identities"]:
        state["identities"].append(mine)
        write.write_json(folder / layout.TRAINED, state)
    return dict(state["results"])
