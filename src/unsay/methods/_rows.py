"""The rows that `sft` trains on: what decides them, how they are built, the model's own answers they may be made from.

data_hash(experiment, source, base)
build_rows(job, source, base, hash)
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from unsay import identity
from unsay.augment import Answer, Candidate, Vocabulary
from unsay.config import Experiment
from unsay.data import build, export
from unsay.data.candidates import write_candidates
from unsay.data.source import GSM8K, Source, open_source, training_examples
from unsay.definitions import Model
from unsay.engine import Options, Request, generate
from unsay.errors import ConfigError, DataError, TrainingError
from unsay.evaluate.lm_eval_tasks import question_prompts, question_template
from unsay.evaluate.setup import Opened, open_model
from unsay.job import Job, Report
from unsay.records import Example, Key
from unsay.settings import Decode, Training, UndoData
from unsay.store import layout, write
from unsay.undo import UndoTable

_FINAL = r"#### (-?[$0-9.,]+)"
"""Where the final answer stands in GSM8K's format."""


def data_hash(experiment: Experiment, source: Source, base: Opened) -> str:
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


def build_rows(
    job: Job, source: Source, base: Opened, data_hash: str, *, report: Report | None = None, processes: int = 1
) -> build.Manifest:
    """Build the rows of a job and write them into the folder of its training."""
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
        evaluation=[example for split in ("dev", "test") for example in source.examples(split)],
        # Generated questions share their sentences, not their numbers: rows of words would refuse what is no leak.
        in_a_row=not source.generated,
        facts={
            "data_hash": data_hash,
            "tokenizer": base.prompter.fingerprint,
            "template": base.template,
            "enable_thinking": thinking,
            "prompt_0": turns[examples[0].id],
            "model": dataclasses.asdict(experiment.model),
        },
        processes=processes,
        progress=progress,
    )


def prepare(job: Job, report: Report, *, sample: int | None, processes: int) -> dict[str, Any]:
    """Build a job's rows without training; see `Sft.prepare`."""
    experiment, folder = job.experiment, job.train_folder
    _training(experiment)
    source = open_source(experiment.dataset, job.output_dir)
    base = open_model(experiment.model, device=job.device, dtype=job.dtype, undo=experiment.settings.undo)
    found: dict[str, Any] = {"folder": str(layout.data(folder))}
    if sample is not None:
        report({"event": "stage", "stage": "sample"})
        found["sampled"] = str(_sample(job, source, base, sample, report))
    report({"event": "stage", "stage": "data"})
    wanted = data_hash(experiment, source, base)
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
        write.supersede(folder, [layout.DATA], before or "rows")
    return found | build_rows(job, source, base, wanted, report=report, processes=processes).to_json() | {"built": True}


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
    return Vocabulary(base.table, base.prompter.ordinary_ids, lambda text: base.prompter.encode_answer(text)[0])


# -- the model's own answers ------------------------------------------------------------------------------------------


def _sample(job: Job, source: Source, base: Opened, count: int, report: Report) -> Path:
    """Ask the model for `count` answers to every training question, and write the file its undo data is made from."""
    experiment = job.experiment
    undo = experiment.settings.undo
    name = None if undo is None else undo.options.get("candidates")
    if name is None:
        raise ConfigError(
            f"{experiment.folder}: expected an undo strategy with `candidates:` to write to, got "
            f"{'no undo data' if undo is None else undo.strategy}; use own_samples or splice, or leave out --sample"
        )
    path = Path(str(name))
    if path.exists():
        raise DataError(f"{path} is there already; remove it, name another file, or leave out --sample to use it")
    examples = _examples(experiment, source)
    turns = question_prompts(source, examples)
    thinking = experiment.settings.prompting.enable_thinking
    requests = []
    for at, (example, turn) in enumerate(zip(examples, turns, strict=True)):
        ids = base.prompter.encode_chat([{"role": "user", "content": turn}], enable_thinking=thinking).ids
        requests += [
            Request(Key(source.name, at, repeat=repeat), ids, seed=_seed(experiment.seed, example.id, repeat))
            for repeat in range(count)
        ]
    decode = sampled(experiment.settings.decode)
    model = base.load()
    options = Options(
        decode=decode,
        table=_within(base.table, model),
        end_ids=base.prompter.end_ids,
        text_of=base.visible_text,
        pad_id=base.tokenizer.pad_token_id or 0,
        batch_size=job.batch_size,
    )
    answers: dict[int, dict[int, Candidate]] = {at: {} for at in range(len(examples))}
    for done, finished in enumerate(generate(model, requests, options), 1):
        key = finished.request.key
        correct = is_correct(source, finished.visible, examples[key.doc_id].answer)
        answers[key.doc_id][key.repeat] = Candidate(finished.visible_ids, correct)
        report({"event": "progress", "stage": "sample", "done": done, "total": len(requests)})
    write_candidates(
        path,
        ((examples[at].id, [found[repeat] for repeat in sorted(found)]) for at, found in answers.items()),
        tokenizer=base.prompter.fingerprint,
        facts={
            "model": experiment.model.path,
            "weights": base.weights,
            "seed": experiment.seed,
            "decode": dataclasses.asdict(decode),
        },
    )
    return path


def sampled(decode: Decode) -> Decode:
    """Return how own answers are drawn: as the experiment decodes, but never greedily and without undo."""
    hot = decode if decode.do_sample else dataclasses.replace(decode, do_sample=True, temperature=1.0)
    return dataclasses.replace(hot, undo="ban", undo_context="keep", stop=None)


def is_correct(source: Source, answer: str, gold: str) -> bool:
    """Say whether an answer's final answer is the gold one's; without a pattern for it the whole texts must agree."""
    pattern = source.answer or (_FINAL if source.task == GSM8K else None)
    if pattern is None:
        return answer.split() == gold.split()
    found = [re.search(pattern, text) for text in (answer, gold)]
    finals = [re.sub(r"[,$]", "", match[1]).strip().rstrip(".") if match and match[1] else None for match in found]
    return finals[0] is not None and finals[0] == finals[1]


def _seed(seed: int, id: str, repeat: int) -> int:
    """Return the seed of one answer: which others are asked for does not matter to what is drawn."""
    digest = hashlib.sha256(f"{seed},{repeat},{id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _within(table: UndoTable, model: Any) -> UndoTable:
    """Leave out control tokens that the model has no row for: it cannot sample them."""
    rows = int(model.get_output_embeddings().weight.shape[0])
    kept = {id: action for id, action in table.actions.items() if id < rows}
    return UndoTable(kept, {id: table.names[id] for id in kept}, table.newline_ids)


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
