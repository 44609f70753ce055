"""One evaluation, from a dataset to files: prompts and scoring are lm-eval's, decoding and the other metrics ours.

Every finished answer is appended to traces.jsonl at once; when an evaluation starts again, answers whose key, prompt
and settings agree are taken from there and only the rest is generated.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unsay import engine, identity, metrics, prompt_checks
from unsay.backend import Backend
from unsay.data.source import Source
from unsay.errors import EvaluationError, StoreError
from unsay.evaluate import task_scores
from unsay.evaluate.batch_check import agreement, check_batch, check_warnings, drawn_otherwise, evenly
from unsay.evaluate.engines import CHECKED, Engines
from unsay.evaluate.lm_eval_model import PromptItem, UnsayLM
from unsay.evaluate.lm_eval_tasks import aggregations, asked, check_lines, task_config
from unsay.evaluate.planted import Begun, Plant
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import Opened
from unsay.evaluate.shards import Hand, Part, Shards, computing_with, order_of, surroundings, trace_of
from unsay.evaluate.task_scores import FILTERS, ExactMatchReading
from unsay.job import Event, Job, Report, Result
from unsay.metrics.exact_match import STRICT
from unsay.prompt_checks import PromptFacts, PromptReport
from unsay.records import BUDGET_REASONS, Key, MetricValue, Prompt, Sample, Trace
from unsay.redaction import redacted
from unsay.settings import Decode, Prompting
from unsay.store import layout, read, write
from unsay.undo import written

Progress = Callable[[int, int, MetricValue | None, Mapping[str, int]], None]
"""Called with the answers finished, all answers, the strict exact match of the finished ones (None before any), and the
tokens that this run has read, written and taken back."""


def _to_nobody(_: Event) -> None:
    """Where nobody could help anyway."""


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate and where the results go."""

    source: Source
    prompting: Prompting
    decode: Decode
    opened: Opened
    model_name: str
    seed: int
    folder: Path
    limit: int | None = None
    batch_size: int | None = None
    check_batch: int = 0
    """Answers to generate again alone, to see whether they come out the same."""
    check_with: Backend | None = None
    """What else generates those once more."""
    shards: int = 1
    """Parts that the answers are generated in, by helpers where an executor gives some."""
    takes_part: bool = True
    threads: int | None = None
    """What each of them computes with; None: as its libraries choose."""


def evaluate_job(job: Job, source: Source, opened: Opened, report: Report) -> Result:
    """Evaluate an opened model with a job's settings: the last stage of every method."""
    report({"event": "stage", "stage": "evaluate"})
    settings = job.experiment.settings
    evaluation = Evaluation(
        source=source,
        prompting=settings.prompting,
        decode=settings.decode,
        opened=opened,
        model_name=job.experiment.model.name,
        seed=job.experiment.seed,
        folder=job.result_folder,
        limit=job.limit,
        batch_size=job.batch_size,
        check_batch=job.check_batch,
        check_with=job.check_with,
        shards=job.shards,
        takes_part=job.takes_part,
        threads=job.threads,
    )
    result = evaluate(
        evaluation,
        report=report,
        progress=lambda done, total, so_far, spent: report(
            {
                "event": "progress",
                "stage": "evaluate",
                "done": done,
                "total": total,
                "so_far": None if so_far is None else {"value": so_far.value, "stderr": so_far.stderr},
                "spent": dict(spent),
            }
        ),
    )
    warnings = (*result.warnings, *opened.context_warnings(settings.decode))
    return replace(result, facts=result.facts | opened.facts, warnings=warnings)


def evaluate(evaluation: Evaluation, progress: Progress, report: Report = _to_nobody) -> Result:
    """Generate what is missing, score everything, write every result file.

    `report` is told where helpers are of use (`unsay.evaluate.shards`). The weights are loaded only when an answer has
    to be generated. Raises EvaluationError when lm-eval's exact match and ours differ on any item, or a mean of
    lm-eval's and ours.
    """
    config = task_config(evaluation.source, evaluation.prompting, evaluation.decode)
    reading = task_scores.read_exact_match(config, own=evaluation.source.task is None)
    answers = Answers(evaluation, _exact_match(reading, config), progress, report)
    with computing_with(evaluation.threads):
        results = _run_lm_eval(evaluation, config, answers)
        checked = answers.check_batch() if evaluation.check_batch else None
    task = str(config["task"])
    lines = results["samples"][task]
    total = int(results["n-samples"][task]["original"])
    samples = _samples(lines, answers.traces, evaluation.opened)
    scores = _scores(config, reading, lines, results["results"][task], samples)
    prompts = _prompt_report(evaluation, config, lines, samples, answers)
    changes = answers.engines.changes(len(answers.traces))
    files = _write_lm_eval_files(results, evaluation.folder)
    write.write_bytes(
        evaluation.folder / layout.PREDICTIONS,
        b"".join(
            write.json_line({"prompt": prompt.text, "predict": sample.predict, "label": sample.label})
            for prompt, sample in zip(answers.prompts, samples, strict=True)
        ),
    )
    write.write_parts(
        evaluation.folder / layout.SCORES,
        (write.json_line(line.to_json()) for line in metrics.by_item(samples, scores.items)),
    )
    _write_metrics(evaluation.folder / layout.METRICS, scores.values, len(samples))
    return Result(
        hashes={"eval": answers.eval_hash},
        items=total,
        files=files | {"predictions": layout.PREDICTIONS, "metrics": layout.METRICS, "traces": layout.TRACES},
        facts={
            "task": task,
            "scored": len(samples),
            "prompt_0": answers.prompts[0].text,
            "prompts_cut": sum(prompt.cut > 0 for prompt in answers.prompts),
            "answers_cut": sum(trace.finish_reason in BUDGET_REASONS for trace in answers.traces),
            "prompts": prompts.to_json(),
            "stops_in_retracted": sum(trace.stop_in_raw for trace in answers.traces),
            "undo_table": evaluation.opened.table.to_json(),
            "exact_match": None if _exact_match(reading, config) is None else reading.options,
            "engine": answers.engines.facts,
        }
        | ({} if not changes else {"engine_changes": {"answers": changes, "generated_again": answers.engines.checked}})
        | ({} if checked is None else {"batch_check": checked}),
        warnings=(*prompts.warnings(), *answers.engines.remark(len(answers.traces)), *check_warnings(checked)),
    )


class Answers:
    """The answers to one evaluation's prompts: what is on disk already, and the rest from the model."""

    def __init__(
        self, evaluation: Evaluation, exact_match: metrics.Metric | None, progress: Progress, report: Report
    ) -> None:
        self._evaluation = evaluation
        self._report = report
        self._shards = Shards(evaluation.folder / layout.SHARDS)
        self._adopted: list[Part] = []
        """Parts of an earlier run that somebody still answers."""
        self._exact_match = exact_match
        self._progress = progress
        self.prompts: list[Prompt] = []
        self.traces: list[Trace] = []
        self.eval_hash = ""
        self.engines: Engines
        """What the answers were generated with, by this run and by earlier ones."""
        self._items: Sequence[PromptItem] = ()
        self._model: Any = None
        self._labels: dict[Key, str] = {}
        self._begun: dict[Key, Begun] = {}
        self._told: set[Key] = set()
        self._scored = self._right = 0
        self.spent = {"tokens_read": 0, "tokens_written": 0, "tokens_taken_back": 0}
        """What the answers of this run took."""

    def __call__(self, items: Sequence[PromptItem]) -> list[str]:
        """Return the visible text of every answer, in the order of `items`."""
        evaluation = self._evaluation
        self._items = items
        self.prompts = [self._prompt(item) for item in items]
        if evaluation.decode.plant is not None:
            plant = Plant(evaluation.decode, evaluation.opened, seed=evaluation.seed)
            begun = ((item.key, plant.beginning(str(item.key.doc_id), item.label)) for item in items)
            self._begun = {key: each for key, each in begun if each is not None}
        self.eval_hash = identity.eval_hash(
            weights=evaluation.opened.weights,
            template=evaluation.opened.template or "",
            prompts=[
                identity.sha256_of([prompt.sha256, item.stop, *self._given(prompt)])
                for item, prompt in zip(items, self.prompts, strict=True)
            ],
            prompting=evaluation.prompting,
            decode=evaluation.decode,
            undo_table=evaluation.opened.table.sha256(),
            end_ids=evaluation.opened.prompter.end_ids,
            seed=evaluation.seed,
            dtype=evaluation.opened.dtype,
        )
        done = self._resume()
        self.engines = Engines(evaluation.folder, self.eval_hash, asked=self._surroundings())
        self._take_over(done)
        write.write_bytes(
            evaluation.folder / layout.PROMPTS, b"".join(write.seal(prompt.to_json()) for prompt in self.prompts)
        )
        missing = [(item, prompt) for item, prompt in zip(items, self.prompts, strict=True) if prompt.key not in done]
        self._labels = {prompt.key: item.label for item, prompt in zip(items, self.prompts, strict=True)}
        self._tell(done.values())
        if missing:
            self._generate(missing, done)
        self.traces = [done[prompt.key] for prompt in self.prompts]
        return [trace.visible for trace in self.traces]

    def _prompt(self, item: PromptItem) -> Prompt:
        ids, cut = item.prompt.ids, 0
        room = self._evaluation.opened.max_length - self._evaluation.decode.max_new_tokens
        if len(ids) > room > 0:  # like lm-eval's own model: drop the beginning, and say so
            cut = len(ids) - room
            ids = ids[cut:]
        return Prompt(
            key=item.key,
            text=item.prompt.text,
            ids=tuple(ids),
            pieces=tuple(self._evaluation.opened.prompter.pieces(ids)),
            sha256=identity.sha256_of(list(ids)),
            cut=cut,
        )

    def _resume(self) -> dict[Key, Trace]:
        """Return the finished answers that still hold; traces of other prompts or settings are moved aside."""
        folder = self._evaluation.folder
        wanted = {prompt.key: prompt.sha256 for prompt in self.prompts}
        found = list(read.traces(folder))
        _, _, others = self._shards.left(self.eval_hash)
        if others:
            write.supersede(folder, [layout.SHARDS], others[0].order.settings_hash)
        stale = [trace for trace in found if trace.eval_hash != self.eval_hash]
        if stale:
            write.supersede(folder, [layout.TRACES, layout.PROMPTS, layout.ENGINES], stale[0].eval_hash)
            return {}
        return {trace.key: trace for trace in found if wanted.get(trace.key) == trace.prompt_sha256}

    def _take_over(self, done: dict[Key, Trace]) -> None:
        """Take in what the parts of an earlier run hold that nobody is at any more; note which others there are."""
        free, self._adopted, _ = self._shards.left(self.eval_hash)
        if not free:
            return
        with write.Journal(self._evaluation.folder / layout.TRACES) as journal:
            for part in free:
                self._take_in(part, journal, done)
        for part in free:
            part.remove()

    def _take_in(self, part: Part, journal: write.Journal, done: dict[Key, Trace]) -> None:
        """Append a part's answers to the traces, each once, and note what they were generated with."""
        with write.lock(part.folder, wait=5.0):
            taken = [trace for key, trace in part.traces().items() if key not in done]
            engines = Engines(part.folder, self.eval_hash, asked={})
        if not taken:
            return
        for start, facts in engines.stretches():
            if start < len(taken):
                self.engines.begin(len(done) + start, facts)
        for trace in taken:
            journal.append(trace.to_json())
            done[trace.key] = trace

    def check_batch(self) -> dict[str, Any]:
        """Generate some answers again alone; see `unsay.evaluate.batch_check`."""
        opened = self._evaluation.opened
        if opened.backend is not None and self._evaluation.decode.do_sample:
            return drawn_otherwise()
        traces = {trace.key: trace for trace in self.traces}
        requests = [self._request(item, prompt) for item, prompt in zip(self._items, self.prompts, strict=True)]
        chosen = evenly(requests, self._evaluation.check_batch)
        found = check_batch(self._model or opened.load(), chosen, self._options(), traces)
        if opened.backend is not None:
            found |= {"generated_again_by": "this package's own engine"}
        if self._evaluation.check_with is not None:
            found["with"] = self._check_with(self._evaluation.check_with, chosen, traces)
        return found

    def _check_with(
        self, backend: Backend, chosen: Sequence[engine.Request], traces: Mapping[Key, Trace]
    ) -> dict[str, Any]:
        """Let another backend write some answers once more, with the very same weights where it is given them."""
        opened = self._evaluation.opened
        assert opened.model is not None
        said = backend.to_json()
        if self._evaluation.decode.do_sample:
            return drawn_otherwise() | {"backend": said}
        other = replace(opened, model=replace(opened.model, backend=backend))
        with engine_of(other, self._options(), self._evaluation.folder) as generator:
            return agreement(chosen, generator.generate(chosen), traces) | {"backend": said}

    def _request(self, item: PromptItem, prompt: Prompt) -> engine.Request:
        begun = self._begun.get(prompt.key)
        given, beginning = ((), None) if begun is None else (begun.ids, begun.beginning)
        seed = _seed(self._evaluation.seed, prompt)
        return engine.Request(prompt.key, prompt.ids, seed, item.stop, given=given, beginning=beginning)

    def _given(self, prompt: Prompt) -> list[list[int]]:
        """Return what an answer begins with, where it is given that."""
        return [list(self._begun[prompt.key].ids)] if prompt.key in self._begun else []

    def _options(self) -> engine.Options:
        evaluation, opened = self._evaluation, self._evaluation.opened
        return engine.Options(
            decode=evaluation.decode,
            table=opened.table,
            end_ids=opened.prompter.end_ids,
            text_of=opened.visible_text,
            pad_id=opened.prompter.end_id,
            slots=evaluation.batch_size,
        )

    def _generate(self, missing: list[tuple[PromptItem, Prompt]], done: dict[Key, Trace]) -> None:
        evaluation, opened = self._evaluation, self._evaluation.opened
        requests = [self._request(item, prompt) for item, prompt in missing]
        if self._adopted or evaluation.shards > 1:
            self._generate_in_parts(requests, done)
            return
        first = len(done)
        with (
            write.Journal(evaluation.folder / layout.TRACES) as journal,
            engine_of(opened, self._options(), evaluation.folder) as generator,
        ):
            self._model = generator.model if isinstance(generator, engine.Engine) else None
            for finished in generator.generate(requests):
                if len(done) == first:
                    self.engines.begin(first, generator.facts)
                trace = trace_of(finished, opened.prompter, self.eval_hash)
                journal.append(trace.to_json())
                done[trace.key] = trace
                self._count(len(finished.request.prompt_ids), trace)
                self._tell([trace])
            self.engines.begin(first, generator.facts)
            if isinstance(generator, engine.Engine):
                self._generate_again(generator, list(done.values())[:first])

    def _generate_in_parts(self, requests: list[engine.Request], done: dict[Key, Trace]) -> None:
        """Generate together with whoever helps; an answer is taken in with its part, when that is complete."""
        evaluation, opened = self._evaluation, self._evaluation.opened
        adopted = {each.key for part in self._adopted for each in part.order.requests}
        rest = [each for each in requests if each.key not in adopted]
        order = order_of(opened, self._options(), rest, settings_hash=self.eval_hash)
        parts = [*self._adopted, *self._shards.split(order, evaluation.shards)]
        lengths = {each.key: len(each.prompt_ids) for each in requests}

        def tell(trace: Trace) -> None:
            self._count(lengths.get(trace.key, 0), trace)
            self._tell([trace])

        with (
            write.Journal(evaluation.folder / layout.TRACES) as journal,
            Hand(opened, self._options(), surroundings=self._surroundings()) as hand,
        ):
            for part in self._shards.answered(parts, hand if evaluation.takes_part else None, self._report, tell):
                self._take_in(part, journal, done)
            self._model = hand.generator.model if isinstance(hand.generator, engine.Engine) else None
        for part in parts:
            part.remove()

    def _generate_again(self, generator: engine.Engine, earlier: Sequence[Trace]) -> None:
        """Generate some of the earlier answers as the present ones were, if that was otherwise; count what differs."""
        otherwise = self.engines.otherwise(len(earlier))
        if not otherwise:
            return
        count = min(self._evaluation.check_batch or CHECKED, len(otherwise))
        chosen = {
            trace.key: trace.ids for trace in (earlier[at] for at in otherwise[:: len(otherwise) // count][:count])
        }
        pairs = zip(self._items, self.prompts, strict=True)
        requests = [self._request(item, prompt) for item, prompt in pairs if prompt.key in chosen]
        found = {finished.request.key: finished.ids for finished in generator.generate(requests)}
        self.engines.note_check(count, sorted(key.doc_id for key, ids in chosen.items() if found[key] != ids))

    def _tell(self, traces: Iterable[Trace]) -> None:
        """Report how far it is with these answers, and how good the finished ones are."""
        for trace in traces:
            if trace.key in self._told:
                continue
            self._told.add(trace.key)
            if self._exact_match is not None:
                sample = Sample(str(trace.key.doc_id), "", self._labels[trace.key], trace.visible)
                score = self._exact_match.items([sample])[STRICT][0]
                self._scored += score is not None
                self._right += score == 100.0
        so_far = metrics.share_of(self._right, self._scored, STRICT) if self._scored else None
        self._progress(len(self._told), len(self.prompts), so_far, self.spent)

    def _surroundings(self) -> dict[str, Any]:
        return surroundings(self._evaluation.opened, self._evaluation.batch_size)

    def _count(self, read: int, trace: Trace) -> None:
        self.spent["tokens_read"] += read
        self.spent["tokens_written"] += trace.counts.sampled
        self.spent["tokens_taken_back"] += trace.counts.popped


def _seed(seed: int, prompt: Prompt) -> int:
    """Return the seed of one answer: a function of the run's seed and the item, never of its place in a batch."""
    digest = hashlib.sha256(f"{seed}|{prompt.key.to_json()}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _run_lm_eval(evaluation: Evaluation, config: dict[str, Any], answers: Answers) -> dict[str, Any]:
    import lm_eval
    import lm_eval.models
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    if evaluation.source.files and evaluation.source.format is None:
        check_lines(config, evaluation.source)
    thinking = evaluation.prompting.enable_thinking
    prompter = evaluation.opened.prompter
    chat = evaluation.prompting.apply_chat_template and prompter.has_template
    results = lm_eval.simple_evaluate(
        model=UnsayLM(prompter, answers, chat=chat, enable_thinking=thinking),
        model_args={"pretrained": evaluation.model_name},
        tasks=[config],
        limit=evaluation.limit,
        apply_chat_template=chat,
        fewshot_as_multiturn=evaluation.prompting.fewshot_as_multiturn,
        task_manager=TaskManager(include_defaults=False),
        random_seed=evaluation.seed,
        numpy_random_seed=evaluation.prompting.fewshot_seed,
        torch_random_seed=evaluation.seed,
        fewshot_random_seed=evaluation.prompting.fewshot_seed,
        bootstrap_iters=100_000,
    )
    if results is None or "samples" not in results:
        raise EvaluationError("lm-eval returned no samples. Expected one process; unset RANK and LOCAL_RANK.")
    full: dict[str, Any] = dict(results)
    full["config"] = dict(full["config"]) | {"model": "unsay", "batch_size": evaluation.batch_size}
    full["chat_template"] = evaluation.opened.template if chat else None
    full["fewshot_as_multiturn"] = evaluation.prompting.fewshot_as_multiturn
    return full


def _write_lm_eval_files(results: dict[str, Any], folder: Path) -> dict[str, str]:
    """Let lm-eval write its own files beside, check them, and move them in.

    lm-eval's tracker logs a failed write and goes on, so nothing is trusted before it was read back. What it says of
    the environment may hold the address that a package was installed from, password and all.
    """
    from lm_eval.loggers import EvaluationTracker

    chat_template = results.pop("chat_template")
    multiturn = results.pop("fewshot_as_multiturn")
    samples = results.pop("samples")
    with write.filling(folder) as temporary:
        tracker = EvaluationTracker(output_path=str(temporary / "results.json"))
        tracker.general_config_tracker.log_experiment_args(
            model_source="unsay",
            model_args=results["config"]["model_args"],
            system_instruction=None,
            chat_template=chat_template,
            fewshot_as_multiturn=multiturn,
        )
        tracker.save_results_aggregated(results=redacted(results), samples=samples)
        for task, lines in samples.items():
            tracker.save_results_samples(task_name=task, samples=lines)
        written = sorted(temporary.iterdir())
        names = [path.name for path in written]
        wanted = [1, *map(len, samples.values())]
        if sorted(map(_objects, written)) != sorted(wanted):
            raise StoreError(
                f"lm-eval could not write its results into {folder} (it wrote {names or 'nothing'}). "
                "Check the free space and permissions of that folder, then run the command again."
            )
        earlier = [path.name for path in folder.iterdir() if path.name.startswith(("results_", "samples_"))]
        write.supersede(folder, earlier, "unfinished")
    return {
        "results": next(name for name in names if name.startswith("results_")),
        "samples": next(name for name in names if name.startswith("samples_")),
    }


def _objects(path: Path) -> int:
    """Return how many JSON objects a file of lm-eval holds; 0 where it was not written to its end."""
    content = path.read_bytes()
    try:
        return len([json.loads(part) for part in (content.splitlines() if path.suffix == ".jsonl" else [content])])
    except ValueError:
        return 0


def _samples(lines: list[dict[str, Any]], traces: Sequence[Trace], opened: Opened) -> list[Sample]:
    """Return one sample per document in document order; lm-eval logs one line per filter and document."""
    by_document = {trace.key.doc_id: trace for trace in reversed(traces)}
    seen: dict[int, Sample] = {}
    for line in lines:
        document = int(line["doc_id"])
        if document in seen:
            continue
        doc, trace = line["doc"], by_document[document]
        answer = doc.get("answer")  # as the dataset has it, steps and all; in some datasets that is no text
        seen[document] = Sample(
            key=str(document),
            question=prompt_checks.question_of(doc) or "",
            label=answer if isinstance(answer, str) and answer.strip() else str(line["target"]),
            predict=trace.visible,
            finish_reason=trace.finish_reason,
            counts=trace.counts,
            written=written(trace, opened.table, opened.prompter.end_ids),
        )
    return [seen[document] for document in sorted(seen)]


def _exact_match(reading: ExactMatchReading, config: dict[str, Any]) -> metrics.Metric | None:
    """Return the exact match to report progress with; None where only lm-eval can judge an answer."""
    if STRICT in reading.reasons or (reading.of_target and config.get("doc_to_target") not in _ANSWER):
        return None
    return metrics.load("exact_match", **reading.options)


_ANSWER = ("{{answer}}", "answer")


def _scores(
    config: dict[str, Any],
    reading: ExactMatchReading,
    lines: list[dict[str, Any]],
    aggregated: dict[str, Any],
    samples: list[Sample],
) -> metrics.Scores:
    """Score the samples with every metric of ours and of the task; what both judge must be equal."""
    if any(isinstance(line["target"], list) for line in lines):
        reading = reading.without(f"{config['task']} has several gold answers to a question")
    measures = metrics.load_all({"exact_match": reading.options})
    exact_match = [measure for measure in measures if STRICT in measure.names]
    others = [measure for measure in measures if measure not in exact_match]
    position = {document: at for at, document in enumerate(sorted({int(line["doc_id"]) for line in lines}))}
    judged = samples
    if reading.of_target:
        targets = {position[int(line["doc_id"])]: str(line["target"]) for line in lines}
        judged = [replace(sample, label=targets[at]) for at, sample in enumerate(samples)]
    exact, other = metrics.score(judged, exact_match), metrics.score(samples, others)
    _check_exact_match(lines, exact.items, position)
    for name, reason in reading.reasons.items():
        exact.values[name] = metrics.missing(reading.definitions[name], reason)
    theirs = task_scores.score(lines, aggregated, position, config, aggregations(config), skip=reading.keys)
    return metrics.Scores(exact.items | other.items | theirs.items, exact.values | other.values | theirs.values)


def _check_exact_match(lines: list[dict[str, Any]], items: metrics.Items, position: dict[int, int]) -> None:
    """Fail loudly when lm-eval's exact match and ours disagree on any item."""
    for line in lines:
        name = FILTERS.get(line["filter"])
        if name is None or "exact_match" not in line or name not in items:
            continue
        ours = items[name][position[int(line["doc_id"])]]
        if ours is not None and ours != 100.0 * float(line["exact_match"]):
            raise EvaluationError(
                f"document {line['doc_id']}: expected lm-eval and unsay to agree on {line['filter']}, got "
                f"{line['exact_match']} and {ours / 100}. No number was written; please report the sample's text."
            )


def _write_metrics(path: Path, summary: dict[str, MetricValue], n: int) -> None:
    write.write_json(path, {"schema": 1, "n": n, "metrics": {name: value.to_json() for name, value in summary.items()}})


def _prompt_report(
    evaluation: Evaluation,
    config: dict[str, Any],
    lines: list[dict[str, Any]],
    samples: list[Sample],
    answers: Answers,
) -> PromptReport:
    """Count what is wrong with the prompts: what a reader of the scores should know."""
    docs = {int(line["doc_id"]): line["doc"] for line in lines}
    tokenizer = evaluation.opened.tokenizer
    bos_id, bos = tokenizer.bos_token_id, tokenizer.bos_token
    return prompt_checks.check(
        (
            PromptFacts(
                text=prompt.text,
                question=sample.question or None,
                asked=asked(config, docs[prompt.key.doc_id]),
                ids=prompt.ids,
                bos_id=bos_id,
                finish_reason=trace.finish_reason,
                cut=prompt.cut,
                shots=evaluation.prompting.num_fewshot,
            )
            for prompt, trace, sample in zip(answers.prompts, answers.traces, samples, strict=True)
        ),
        bos_texts=() if bos is None else (str(bos),),
    )
