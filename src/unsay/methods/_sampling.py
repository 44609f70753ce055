"""The model's own answers to the training questions, which undo data may be made from.

    path = write_answers(job, source, examples, base, answering, 4, report)

Every answer is written down the moment it ends, beside the rows; whatever stops the work, the same command goes on from
there. The file of candidates is written once all answers are there: a part of them is never taken for the whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from unsay import identity
from unsay.augment import Candidate
from unsay.config import Experiment
from unsay.data.candidates import write_candidates
from unsay.data.source import GSM8K, Source
from unsay.engine import Options, Request
from unsay.errors import ConfigError, DataError
from unsay.evaluate.lm_eval_tasks import question_prompts
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import Opened
from unsay.evaluate.shards import Hand, Part, Shards, computing_with, order_of, surroundings
from unsay.job import Job, Report
from unsay.records import SCHEMA, Example, Key, Trace
from unsay.settings import Decode
from unsay.store import layout, read, write
from unsay.undo import UndoTable

_FINAL = r"####\s*(-?[$0-9.,]+)"
"""Where the final answer stands in GSM8K's format."""

Answers = dict[tuple[str, int], tuple[int, ...]]
"""Visible ids by the id of the question and the number of the answer to it."""


@dataclass(frozen=True)
class _Asked:
    """One answer that is wanted."""

    example: Example
    repeat: int
    prompt: tuple[int, ...]
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.example.id, self.repeat

    @property
    def sha256(self) -> str:
        """What decides the answer, besides model and settings."""
        return identity.sha256_of([list(self.prompt), self.seed])


def write_answers(
    job: Job, source: Source, examples: list[Example], base: Opened, answering: Opened, count: int, report: Report
) -> Path:
    """Ask a model for `count` answers to every training question, and write the file a job's undo data is made from.

    `base` is what the rows are made with; `answering` may be another model with the same ids for text. Raise
    ConfigError where the job reads no candidates, DataError where their file is there already or ids differ.
    """
    experiment = job.experiment
    path = _file_of(experiment)
    if not answering.prompter.agrees_with(base.prompter):
        raise DataError(
            f"expected a model with the tokenizer of {experiment.model.name} to answer for it, got another tokenizer; "
            "sample from a training of the same model"
        )
    wanted = _asked(experiment, source, examples, base, count)
    decode = sampled(experiment.settings.decode)
    facts = {
        "model": experiment.model.path,
        "weights": answering.weights,
        "seed": experiment.seed,
        "decode": dataclasses.asdict(decode),
    }
    # Asked here, whatever serves its answers elsewhere.
    assert answering.model is not None
    answering = dataclasses.replace(answering, model=dataclasses.replace(answering.model, backend=None))
    done = _answer(job, base, answering, wanted, decode, facts, report)
    found: dict[str, list[Candidate]] = {each.example.id: [] for each in wanted}
    for each in wanted:
        ids = done[each.key]
        correct = is_correct(source, base.visible_text(ids), each.example.answer)
        found[each.example.id].append(Candidate(ids, correct))
    write_candidates(path, found.items(), tokenizer=base.prompter.fingerprint, facts=facts)
    (job.train_folder / layout.SAMPLED).unlink()  # all of it is in the file now
    return path


def _file_of(experiment: Experiment) -> Path:
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
    return path


def _asked(experiment: Experiment, source: Source, examples: list[Example], base: Opened, count: int) -> list[_Asked]:
    turns = question_prompts(source, examples)
    thinking = experiment.settings.prompting.enable_thinking
    wanted = []
    for example, turn in zip(examples, turns, strict=True):
        ids = base.prompter.encode_chat([{"role": "user", "content": turn}], enable_thinking=thinking).ids
        wanted += [_Asked(example, repeat, ids, _seed(experiment.seed, example.id, repeat)) for repeat in range(count)]
    return wanted


def _answer(
    job: Job,
    base: Opened,
    answering: Opened,
    wanted: list[_Asked],
    decode: Decode,
    facts: Mapping[str, Any],
    report: Report,
) -> Answers:
    """Return all answers: those that an earlier run wrote down, and the rest from the model."""
    drawn_with = identity.sha256_of({"tokenizer": base.prompter.fingerprint, **facts})
    asked = {Key("", at, repeat=each.repeat): each for at, each in enumerate(wanted)}
    done = _resume(job.train_folder / layout.SAMPLED, drawn_with, wanted)
    shards = Shards(job.train_folder / layout.SAMPLE_SHARDS)
    free, taken, others = shards.left(drawn_with)
    if others:
        write.supersede(job.train_folder, [layout.SAMPLE_SHARDS], others[0].order.settings_hash)

    def tell(count: int) -> None:
        report({"event": "progress", "stage": "sample", "done": count, "total": len(wanted)})

    with write.Journal(job.train_folder / layout.SAMPLED) as journal:

        def note(key: Key, ids: tuple[int, ...]) -> None:
            each = asked[key]
            if each.key not in done:
                line = {"schema": SCHEMA, "id": each.example.id, "repeat": each.repeat, "drawn_with": drawn_with}
                journal.append(line | {"asked": each.sha256, "ids": list(ids)})
                done[each.key] = ids

        for part in free:
            _take_in(part, note)
        requests = [Request(key, each.prompt, each.seed) for key, each in asked.items() if each.key not in done]
        options = Options(
            decode=decode,
            table=_both(answering.table, base.table),
            end_ids=base.prompter.end_ids,
            text_of=base.visible_text,
            pad_id=base.tokenizer.pad_token_id or 0,
            slots=job.batch_size,
        )
        if taken or (requests and (job.shards > 1 or not job.takes_part)):
            adopted = {each.key for part in taken for each in part.order.requests}
            rest = [each for each in requests if each.key not in adopted]
            order = order_of(answering, options, rest, settings_hash=drawn_with, device=job.device, dtype=job.dtype)
            parts = [*taken, *shards.split(order, job.shards)]
            seen = set(asked) - {each.key for each in requests}
            around = surroundings(answering, job.batch_size)
            with computing_with(job.threads), Hand(answering, options, surroundings=around) as hand:

                def look(trace: Trace) -> None:
                    seen.add(trace.key)
                    tell(len(seen))

                for part in shards.answered(parts, hand if job.takes_part else None, report, look):
                    _take_in(part, note)
            free += parts
        elif requests:
            with engine_of(answering, options, job.train_folder) as generator:
                for finished in generator.generate(requests):
                    note(finished.request.key, finished.visible_ids)
                    tell(len(done))
    for part in free:
        part.remove()
    return done


def _take_in(part: Part, note: Callable[[Key, tuple[int, ...]], None]) -> None:
    with write.lock(part.folder, wait=5.0):
        for key, trace in part.traces().items():
            note(key, trace.visible_ids)


def _resume(path: Path, drawn_with: str, wanted: list[_Asked]) -> Answers:
    """Return what is there of the answers; those of another model or other settings are moved aside."""
    lines = list(read.read_lines(path))
    if any(line["drawn_with"] != drawn_with for line in lines):
        write.supersede(path.parent, [path.name], str(lines[0]["drawn_with"]))
        return {}
    asked = {each.key: each.sha256 for each in wanted}
    return {
        (line["id"], line["repeat"]): tuple(line["ids"])
        for line in lines
        if asked.get((line["id"], line["repeat"])) == line["asked"]
    }


def sampled(decode: Decode) -> Decode:
    """Return how own answers are drawn: as the experiment decodes, but never greedily and without undo."""
    hot = decode if decode.do_sample else dataclasses.replace(decode, do_sample=True, temperature=1.0)
    return dataclasses.replace(hot, undo="ban", undo_context="keep", stop=None)


def is_correct(source: Source, answer: str, gold: str) -> bool:
    """Say whether an answer's final answer is the gold one's; without a pattern for it the whole texts must agree.

    Numbers are compared by their value.
    """
    pattern = source.answer or (_FINAL if source.task == GSM8K else None)
    if pattern is None:
        return answer.split() == gold.split()
    found = [re.search(pattern, text) for text in (answer, gold)]
    finals = [re.sub(r"[,$]", "", match[1]).strip().rstrip(".") if match and match[1] else None for match in found]
    return finals[0] is not None and finals[1] is not None and _value(finals[0]) == _value(finals[1])


def _value(final: str) -> Decimal | str:
    """Return the number that a text is, exactly; the text where it is none."""
    return Decimal(final) if re.fullmatch(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", final) else final


def _seed(seed: int, id: str, repeat: int) -> int:
    """Return the seed of one answer: which others are asked for does not matter to what is drawn."""
    digest = hashlib.sha256(f"{seed},{repeat},{id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _both(one: UndoTable, other: UndoTable) -> UndoTable:
    return UndoTable({**other.actions, **one.actions}, {**other.names, **one.names}, one.newline_ids)
