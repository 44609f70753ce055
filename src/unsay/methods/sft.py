"""Fine-tunes with LoRA on the training split, with or without undo, then evaluates zero-shot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from unsay import identity
from unsay.augment import Vocabulary
from unsay.config import Experiment
from unsay.data import build
from unsay.data.source import Source, open_source
from unsay.errors import TrainingError
from unsay.evaluate.lm_eval_tasks import question_prompts
from unsay.evaluate.evaluate import evaluate_job
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report, Result
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
    train_file = source.files.get("train")
    return identity.data_hash(
        dataset=identity.fingerprint(train_file) if train_file else f"hub:{source.hub}",
        format=experiment.dataset.format,
        columns=experiment.dataset.columns,
        template=base.prompter.template or "",
        doc_to_text=source.task or "question",
        undo=experiment.settings.undo,
        undo_table=base.table.sha256(),
        tokenizer=base.tokenizer_hash,
        cutoff_len=training.cutoff_len,
        max_samples=training.max_samples,
        seed=experiment.seed,
    )


def _build_rows(job: Job, source: Source, base: Opened, data_hash: str) -> None:
    """Write the training rows unless the same ones are there; different earlier ones are moved aside."""
    folder = layout.data(job.train_folder)
    manifest = read.json_file(folder / layout.MANIFEST)
    if manifest is not None and manifest.get("data_hash") == data_hash:
        return
    if manifest is not None:
        write.supersede(job.train_folder, [layout.DATA, layout.TRAIN], str(manifest.get("data_hash", "unknown")))
    experiment, training = job.experiment, _training(job.experiment)
    undo = experiment.settings.undo
    prompts = question_prompts(source)
    examples = list(islice(source.examples("train"), training.max_samples))
    texts = dict(zip((example.id for example in examples), prompts(examples), strict=True))
    build.build(
        examples,
        encode_prompt=lambda example: (
            base.prompter.encode_chat(
                [{"role": "user", "content": texts[example.id]}],
                enable_thinking=experiment.settings.prompting.enable_thinking,
            ).ids
        ),
        encode_answer=base.prompter.encode_answer,
        end_id=base.prompter.end_id,
        vocabulary=None if undo is None else _vocabulary(base),
        undo=undo,
        cutoff_len=training.cutoff_len,
        seed=experiment.seed,
        folder=folder,
        evaluation=[example for split in ("dev", "test") for example in source.examples(split)],
        facts={
            "data_hash": data_hash,
            "tokenizer": base.tokenizer_hash,
            "template": base.prompter.template,
            "prompt_0": texts[examples[0].id],
            "seed": experiment.seed,
        },
    )


def _vocabulary(base: Opened) -> Vocabulary:
    special = set(base.tokenizer.all_special_ids) | set(base.tokenizer.added_tokens_decoder)
    ordinary = [id for id in range(len(base.tokenizer)) if id not in special and not base.table.is_control(id)]
    return Vocabulary(base.table, ordinary, lambda text: base.prompter.encode_answer(text).ids)


def _train(job: Job, base: Opened, training: Training, train_hash: str, report: Report) -> dict[str, Any]:
    """Train unless it is done; a different earlier training is moved aside, an unfinished one is resumed."""
    from unsay.train.sft import train

    folder = layout.train(job.train_folder)
    before = read.json_file(folder / layout.TRAINED)
    if before is not None and before["train_hash"] == train_hash and before["completed"]:
        return dict(before["result"])
    if before is not None and before["train_hash"] != train_hash:
        write.supersede(job.train_folder, [layout.TRAIN], before["train_hash"])
    state = {"schema": 1, "train_hash": train_hash, "completed": False}
    write.write_json(folder / layout.TRAINED, state)
    result = train(
        build.load_rows(layout.data(job.train_folder)),
        model_path=job.experiment.model.path,
        revision=job.experiment.model.revision,
        tokenizer=base.tokenizer,
        table=base.table,
        training=training,
        undo=job.experiment.settings.undo,
        seed=job.experiment.seed,
        out=folder,
        device=base.device,
        progress=lambda step, total, loss: report(
            {"event": "progress", "stage": "train", "done": step, "total": total, "loss": loss}
        ),
    )
    write.write_json(folder / layout.TRAINED, state | {"completed": True, "result": result.to_json()})
    return dict(result.to_json())
