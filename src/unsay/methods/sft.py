"""Fine-tunes with LoRA on the training split, with or without undo, then evaluates zero-shot."""

from __future__ import annotations

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
from unsay.evaluate.lm_eval_tasks import question_prompts
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report, Result
from unsay.records import Example
from unsay.settings import Training
from unsay.store import layout, read, write


@dataclass(frozen=True)
class Sft:
    """No options: everything is in the experiment's settings."""

    def run(self, job: Job, report: Report) -> Result:
        experiment = job.experiment
        source = open_source(experiment.dataset, job.output_dir)
        base = open_model(experiment.model, device=job.device, dtype=job.dtype, undo=experiment.settings.undo)

        # 1. Training rows: ids with the origin of every token.
        report({"event": "stage", "stage": "data"})
        data_hash = _data_hash(experiment, source, base)
        _build_rows(job, source, base, data_hash)

        # 2. LoRA training, from its newest checkpoint if there is one.
        report({"event": "stage", "stage": "train"})
        training = _training(experiment)
        train_hash = identity.train_hash(
            data=data_hash,
            weights=base.weights,
            training=training,
            undo=experiment.settings.undo,
            seed=experiment.seed,
        )
        trained = _train(job, base, training, train_hash, report)

        # 3. Evaluation of the adapter, on exactly the prompts it was trained with.
        adapter = layout.train(job.train_folder)
        opened = open_model(experiment.model, device=job.device, dtype=job.dtype, adapter=adapter, weights=train_hash)
        result = evaluate_job(job, source, opened, report)
        return replace(
            result,
            hashes=result.hashes | {"data": data_hash, "train": train_hash},
            facts=result.facts | {"training": trained},
        )


def _training(experiment: Experiment) -> Training:
    training = experiment.settings.training
    if training is None:
        raise TrainingError(
            f"experiment {experiment.folder} has no training settings. Use a config such as lora/train."
        )
    return training


def _data_hash(experiment: Experiment, source: Source, base: Opened) -> str:
    training = _training(experiment)
    # Every split decides the rows: questions that are evaluated on are left out.
    files = {split: identity.fingerprint(path) for split, path in source.files.items()}
    return identity.data_hash(
        dataset=identity.sha256_of(files) if files else f"hub:{source.hub}",
        format=experiment.dataset.format,
        columns=experiment.dataset.columns,
        template=base.template or "",
        doc_to_text=source.task or "question",
        undo=experiment.settings.undo,
        undo_table=base.table.sha256(),
        tokenizer=base.prompter.fingerprint,
        cutoff_len=training.cutoff_len,
        max_samples=training.max_samples,
        seed=experiment.seed,
    )


def _build_rows(job: Job, source: Source, base: Opened, data_hash: str) -> None:
    """Write the training rows unless the same ones are there; different earlier ones are moved aside."""
    manifest = _json(layout.data(job.train_folder) / layout.MANIFEST)
    if manifest is not None:
        before = str(manifest["facts"].get("data_hash"))
        if before == data_hash:
            return
        write.supersede(job.train_folder, [layout.DATA, layout.TRAIN], before)
    experiment, training = job.experiment, _training(job.experiment)
    undo, thinking = experiment.settings.undo, experiment.settings.prompting.enable_thinking
    examples = list(islice(source.examples("train"), training.max_samples))
    if not examples:
        raise DataError(f"dataset {source.name!r}: expected questions in split 'train', got none. Add a train.jsonl.")
    turns = dict(zip((example.id for example in examples), question_prompts(source)(examples), strict=True))

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
    """Train unless it is done; a different earlier training is moved aside, an unfinished one is resumed."""
    from unsay.train.sft import train

    folder = layout.train(job.train_folder)
    before = _json(folder / layout.TRAINED)
    if before is not None and before["train_hash"] == train_hash and before["completed"]:
        return dict(before["result"])
    if before is not None and before["train_hash"] != train_hash:
        write.supersede(job.train_folder, [layout.TRAIN], before["train_hash"])
    state = {"schema": 1, "train_hash": train_hash, "completed": False}
    write.write_json(folder / layout.TRAINED, state)
    result = train(
        build.load_rows(job.train_folder),
        model_path=job.experiment.model.path,
        revision=job.experiment.model.revision,
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
    write.write_json(folder / layout.TRAINED, state | {"completed": True, "result": result.results})
    return dict(result.results)
