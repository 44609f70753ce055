"""lm-eval's results_*.json and samples_*.jsonl, versions 0.4.0 to 0.4.13.

One experiment per task of a results file, and one per group. Samples belong to it when their hashes are the ones the
results name (that also shows that they are complete); else by name. Published values are kept where the samples cannot
bring them out again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unsay import importers, lm_eval_metrics
from unsay.importers import (
    File,
    ForeignError,
    Found,
    Item,
    Options,
    Refused,
    keys_of,
    name_of,
    number,
    shortened,
    whole,
)
from unsay.importers._lm_eval_samples import STAMP, Scan, is_sampled, items_of, scan_samples
from unsay.records import MetricValue

STRICT, FLEXIBLE = "exact_match_strict", "exact_match_flexible"
OURS = {"exact_match,strict-match": STRICT, "exact_match,flexible-extract": FLEXIBLE}
"""lm-eval's key of a metric to ours; others keep lm-eval's key."""
NOT_METRICS = {"alias", "name", "sample_len", "samples", "sample_count", "n", "num_samples", " "}
NOT_A_MEAN = "it is not the mean of what was logged"
MULTIPLE_CHOICE = "answers chosen by likelihood, not written: there is no text to score"

GSM8K_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
MOST_TASKS, MOST_METRICS = 10_000, 64
KNOWN_PATTERNS = {
    r"#### (\-?[0-9\.\,]+)",
    r"The answer is (\-?[0-9\.\,]+).",
    r"The answer is (\-?[0-9\.\,]+)\.",
    GSM8K_FLEXIBLE,
}
KNOWN_IGNORED = {",", r"\$", r"(?s).*#### ", r"\.$"}
"""Patterns of lm-eval's own tasks. Patterns of a stranger's file are never run: some take for ever."""

RESULTS = re.compile(rb'"results"\s*:')
NAMED = re.compile(r"(?:results|samples)_.*\.jsonl?")


@dataclass(frozen=True)
class LmEval:
    """Results and samples of EleutherAI's lm-evaluation-harness."""

    def claims(self, file: File) -> bool:
        if NAMED.fullmatch(file.name):
            return True
        if file.path.suffix == ".json":
            return RESULTS.search(importers.head(file.path)) is not None
        if file.path.suffix != ".jsonl" or b'"doc_id"' not in importers.head(file.path):
            return False
        line = importers.first_line(file.path)
        return line is not None and ("resps" in line or "filtered_resps" in line)

    def find(self, files: Sequence[File], options: Options) -> tuple[list[Found], list[Refused]]:
        mine = [file for file in files if self.claims(file)]
        found: list[Found] = []
        refused: list[Refused] = []
        scans: list[Scan] = []
        for file in mine:
            if file.path.suffix == ".jsonl":
                try:
                    scans.append(scan_samples(file.path))
                except ForeignError as error:
                    refused.append(Refused(file.path, str(error)))
        runs: list[_Run] = []
        for file in mine:
            if file.path.suffix == ".json":
                try:
                    document = importers.mapping(file.path)
                    if isinstance(document.get("results"), dict):
                        runs.append(_Run(file.path, document))
                    elif NAMED.fullmatch(file.name):
                        raise ForeignError(f"expected lm-eval's key `results`, got {keys_of(document)}")
                except ForeignError as error:
                    refused.append(Refused(file.path, str(error)))
        paired = _pair(runs, scans)
        for run in runs:
            try:
                made = list(_experiments(run, paired, options))
            except ForeignError as error:
                refused.append(Refused(run.path, str(error)))
                continue
            if not made:
                refused.append(Refused(run.path, "expected at least one task with a metric, got none"))
            found += made
        used = {path for each in found for path in each.files}
        return found + [_orphan(scan, options) for scan in scans if scan.path not in used], refused


# -- one results file -------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What a results file says of all its tasks."""

    path: Path
    document: Mapping[str, Any]

    def part(self, name: str) -> Mapping[str, Any]:
        value = self.document.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def version(self) -> str:
        return name_of(self.document.get("lm_eval_version"), "")

    @property
    def tool(self) -> str:
        return f"lm-eval {self.version}" if self.version else "lm-eval (version not written)"

    @property
    def arguments(self) -> dict[str, str]:
        """The model arguments: a text `a=b,c=d` up to 0.4.9, a mapping from 0.4.11 on."""
        value = self.part("config").get("model_args")
        if isinstance(value, dict):
            return {str(key): str(item) for key, item in value.items()}
        if not isinstance(value, str):
            return {}
        pairs = (part.partition("=") for part in value.split(","))
        return {key.strip(): item.strip() for key, sep, item in pairs if sep}

    @property
    def model_path(self) -> str:
        for value in (
            self.arguments.get("pretrained"),
            self.arguments.get("model"),
            self.document.get("model_name"),
            self.part("config").get("model"),
        ):
            if isinstance(value, str) and value.strip():
                return value
        return ""

    @property
    def adapter(self) -> str:
        return self.arguments.get("peft", "") or self.arguments.get("lora_local_path", "")

    def task_version(self, task: str) -> str:
        metadata = self.config(task).get("metadata")
        for value in (self.part("versions").get(task), metadata.get("version") if isinstance(metadata, dict) else None):
            found = number(value)
            if found is not None:
                return f"{found:g}"
        return "?"

    @property
    def stamp(self) -> str:
        match = STAMP.search(self.path.name)
        return match[1] if match else ""

    @property
    def seed(self) -> int:
        """The seed of sampled decoding, 0 where it is not written."""
        config = self.part("config")
        return whole(config.get("torch_seed")) or whole(config.get("random_seed")) or 0

    def tasks(self) -> list[str]:
        """The tasks that are no groups."""
        return [
            task for task, values in self.part("results").items() if isinstance(values, dict) and not self.members(task)
        ]

    def members(self, task: str) -> list[str]:
        """The tasks of a group; none for a task."""
        listed = self.part("group_subtasks").get(task)
        return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []

    def config(self, task: str) -> Mapping[str, Any]:
        value = self.part("configs").get(task)
        return value if isinstance(value, dict) else {}

    def task_hash(self, task: str) -> str:
        value = self.part("task_hashes").get(task)
        return value if isinstance(value, str) else ""

    def sizes(self, task: str, depth: int = 0) -> tuple[int | None, int | None]:
        """How many documents were evaluated, and how many there are; of a group all of its tasks' together."""
        members = self.members(task) if depth < 8 else []
        if not members:
            entry = self.part("n-samples").get(task)
            entry = entry if isinstance(entry, dict) else {}
            return whole(entry.get("effective")), whole(entry.get("original"))
        inner = [self.sizes(member, depth + 1) for member in members[:MOST_TASKS]]
        effective, original = ([size[which] for size in inner] for which in (0, 1))
        return (
            sum(size for size in effective if size is not None) if None not in effective else None,
            sum(size for size in original if size is not None) if None not in original else None,
        )


def _experiments(run: _Run, paired: Mapping[tuple[Path, str], _Pairing], options: Options) -> Iterator[Found]:
    results = run.part("results")
    if len(results) > MOST_TASKS:
        raise ForeignError(f"expected at most {MOST_TASKS:,} tasks, got {len(results):,}")
    for task, values in results.items():
        if isinstance(values, dict):
            made = _experiment(run, task, values, paired.get((run.path, task)), options)
            if made is not None:
                yield made


def _experiment(
    run: _Run, task: str, values: Mapping[str, Any], pairing: _Pairing | None, options: Options
) -> Found | None:
    stated, unread = _stated(values)
    if not stated:
        return None
    members = run.members(task)
    config = run.config(task)
    effective, original = run.sizes(task)
    scan = pairing.scan if pairing is not None else None
    complete = pairing is not None and pairing.complete
    exact_match = _exact_match(run, task, config)
    warnings = [*_warnings(run, task, scan), *(pairing.warnings if pairing is not None else ())]
    warnings += [f"{key}: published {shortened(str(value), 40)}, which is no number" for key, value in unread.items()]
    if members:
        why = f"published by lm-eval for a group of {len(members)} tasks, whose samples are not pooled here"
    elif scan is None:
        why = "published by lm-eval, no samples to check it with"
        warnings.append("samples missing: the published values cannot be checked, and text metrics cannot be computed")
    elif not complete:
        why = f"published by lm-eval; of {effective or '?'} samples {scan.documents} are here, so it cannot be checked"
        warnings.append(
            f"{scan.documents} of {effective or 'an unknown number of'} samples are here: the published values cannot "
            "be checked, and text metrics cannot be computed"
        )
    else:
        why = "published by lm-eval"
    source = f"lm-eval {shortened(task, 60)} v{run.task_version(task)}"
    summary: dict[str, MetricValue] = {}
    definitions: dict[str, str] = {}
    scales: dict[str, float] = {}
    for key, (value, stderr) in stated.items():
        metric, _, filter_name = key.partition(",")
        name = OURS.get(key, key)
        scale = scales[name] = lm_eval_metrics.scale(metric, task, [value, *(scan.extremes(key) if scan else ())])
        known = name in OURS.values() and exact_match is not None  # then it is the definition of ours
        definition = "" if known else _definition(source, metric, filter_name, config, scale)
        reason = _not_a_mean(scan, key, value) if scan is not None and complete else None
        averaged = reason is None or (lm_eval_metrics.is_share(metric, task) and reason == NOT_A_MEAN)
        if scan is not None and key in scan.columns and averaged:
            definitions[name] = definition
        summary[name] = importers.published(
            value * scale,
            None if stderr is None else stderr * scale,
            effective,
            definition,
            why if reason is None else f"{why}; {reason}",
            bounded=scale == 100.0,
            share=lm_eval_metrics.is_share(metric, task) and not members,
        )
    facts: dict[str, Any] = {"task": task, "published": {key: value for key, (value, _) in stated.items()}}
    if members:
        facts["group"] = members[:200]
    if pairing is not None:
        facts |= {"samples": pairing.scan.documents, "samples_matched": pairing.how}
    settings = _settings(run, task, config, scan)
    start, end = _times(run)
    sampled = bool(settings["decode"].get("do_sample"))
    if sampled:
        warnings.append("sampled decoding: another run of the same model gives other answers")
    shots = settings["prompting"].get("num_fewshot")
    return Found(
        tool=run.tool,
        files=(run.path, *([scan.path] if scan else [])),
        part=task,
        model=options.model or _model_name(run),
        dataset=options.dataset or name_of(task),
        method=_method(run),
        config="lm_eval" if shots is None else f"fewshot_{shots}",
        published=summary,
        items=None if scan is None else _Stream(scan, options, {name: scales[name] for name in definitions}),
        expected=effective if scan is not None else None,
        partial=not complete,
        limit=effective if effective is not None and original is not None and effective < original else None,
        exact_match=exact_match,
        text_reason=_no_text(config, scan),
        item_definitions=definitions,
        settings=settings,
        versions=_versions(run),
        hardware=_hardware(run),
        start=start,
        end=end,
        seed=run.seed if sampled else 0,
        warnings=tuple(warnings),
        facts=facts | ({"total": original} if original is not None else {}) | _model_facts(run),
        bos=_bos(run),
        circular=pairing is not None and pairing.circular,
    )


def _not_a_mean(scan: Scan, key: str, value: float) -> str | None:
    """Say why a published value is not what averaging the samples gives; None where it is."""
    column = scan.columns.get(key)
    if column is None:
        return None
    missing = sum(map(math.isnan, column))
    if missing:
        return f"{missing} of {scan.documents} samples have no number for it"
    mean = scan.mean(key)
    return None if mean is not None and abs(mean - value) < 1e-9 else NOT_A_MEAN


def _no_text(config: Mapping[str, Any], scan: Scan | None) -> str | None:
    """Say why the answers are no texts; None where they are."""
    written = config.get("output_type") in (None, "generate_until")
    return None if scan is None or (scan.text and written) else MULTIPLE_CHOICE


def _definition(source: str, metric: str, filter_name: str, config: Mapping[str, Any], scale: float) -> str:
    if f"{metric},{filter_name}" in OURS:
        return f"{source} {filter_name}{lm_eval_metrics.extraction(filter_name, config)}"
    return lm_eval_metrics.definition(source, shortened(metric, 60), shortened(filter_name, 60), config, scale)


@dataclass(frozen=True)
class _Stream:
    """The items of a scanned file, read again each time."""

    scan: Scan
    options: Options
    scales: Mapping[str, float]
    """Of every metric whose value per item means something by itself, under its name here."""

    def __call__(self) -> Iterator[Item]:
        names = {key: OURS.get(key, key) for key in self.scan.columns}
        scales = {key: (name, self.scales[name]) for key, name in names.items() if name in self.scales}
        return items_of(self.scan, self.options, scales)


# -- which samples belong to which results ----------------------------------------


@dataclass(frozen=True)
class _Pairing:
    """Samples of one task of a run; `how` they were found, and whether that already used the published values."""

    scan: Scan
    complete: bool
    how: str
    warnings: tuple[str, ...] = ()
    circular: bool = False


def _pair(runs: Sequence[_Run], scans: Sequence[Scan]) -> dict[tuple[Path, str], _Pairing]:
    """Find the samples of every task: those beside it of the same moment; else those that can be no other run's.

    lm-eval's hash covers documents, prompts and references, not the answers: two runs on one task share it. So samples
    that lie elsewhere, or have another name, are taken only where they bring the published values out, no run lies
    beside them, and no other run could claim them.
    """
    paired: dict[tuple[Path, str], _Pairing] = {}
    for run in runs:
        for task in run.tasks():
            pairing = _beside(run, task, scans)
            if pairing is not None:
                paired[run.path, task] = pairing
    taken = {pairing.scan.path for pairing in paired.values()}
    for scan in scans:
        if scan.path in taken:
            continue
        fitting = [
            (run, task)
            for run in runs
            for task in run.tasks()
            if run.task_hash(task) == scan.task_hash and (run.path, task) not in paired and _brings_out(run, task, scan)
        ]
        rivals = [other for other in scans if other.task_hash == scan.task_hash and other.path not in taken]
        if len(fitting) == 1 and not any(_brings_out(*fitting[0], other) for other in rivals if other is not scan):
            run, task = fitting[0]
            said = (
                f"misleading name: the samples file is called {shortened(scan.path.name, 60)}; it was matched to "
                f"{shortened(task, 60)} by its hash and by the published values, which it therefore cannot confirm"
            )
            paired[run.path, task] = _Pairing(scan, True, "by hash and values", (said,), circular=True)
    return paired


def _beside(run: _Run, task: str, scans: Sequence[Scan]) -> _Pairing | None:
    """Return the samples in the folder of a run that are of the same moment, by hash or else by name."""
    wanted = run.task_hash(task)
    here = [scan for scan in scans if scan.path.parent == run.path.parent]
    same = [scan for scan in here if wanted and scan.task_hash == wanted and scan.stamp == run.stamp]
    if same:
        return _Pairing(same[0], True, "by hash")
    named = [scan for scan in here if STAMP.sub("", scan.path.name) == f"samples_{_sanitized(task)}"]
    timed = [scan for scan in named if scan.stamp == run.stamp]
    scan = timed[0] if timed else named[0] if len(named) == 1 and not run.stamp else None
    if scan is None:
        return None
    effective, _ = run.sizes(task)
    return _Pairing(scan, not wanted and effective is not None and scan.documents == effective, "by name")


def _brings_out(run: _Run, task: str, scan: Scan) -> bool:
    stated, _ = _stated(run.part("results")[task])
    means = {key: scan.mean(key) for key in stated if key in scan.columns}
    return bool(means) and all(mean is not None and abs(mean - stated[key][0]) < 1e-9 for key, mean in means.items())


def _sanitized(task: str) -> str:
    return re.sub(r"\W", "_", task)


# -- what a results file says -----------------------------------------------------


def _stated(values: Mapping[str, Any]) -> tuple[dict[str, tuple[float, float | None]], dict[str, Any]]:
    """Return value and standard error of every metric, under lm-eval's key `metric,filter`; and what is no number."""
    found: dict[str, tuple[float, float | None]] = {}
    unread: dict[str, Any] = {}
    newer = any("," in key for key in values)
    for key, value in values.items():
        name, comma, filter_name = key.partition(",")
        if name.endswith("_stderr") or key in NOT_METRICS or isinstance(value, bool | str) or len(key) > 200:
            continue
        if not isinstance(value, int | float) or bool(comma) != newer or len(found) + len(unread) >= MOST_METRICS:
            continue
        shown = number(value)
        error = number(values.get(f"{name}_stderr,{filter_name}" if comma else f"{name}_stderr"))
        if shown is None:
            unread[key] = value
        else:
            found[key if comma else f"{key},none"] = (shown, error)
    return found, unread


def _exact_match(run: _Run, task: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the task finds final answers, when its patterns are lm-eval's own; None otherwise."""
    patterns: dict[str, str] = {}
    filters = config.get("filter_list")
    for entry in filters if isinstance(filters, list) else ():
        steps = entry.get("filter") if isinstance(entry, dict) else None
        for step in steps if isinstance(steps, list) else ():
            if isinstance(step, dict) and step.get("function") == "regex":
                patterns[str(entry.get("name"))] = str(step.get("regex_pattern"))
    listed = config.get("metric_list")
    exact = (
        next((m for m in listed if isinstance(m, dict) and m.get("metric") == "exact_match"), None)
        if isinstance(listed, list)
        else None
    )
    ignored = exact.get("regexes_to_ignore", []) if exact else None
    if not exact or not isinstance(ignored, list) or not {*map(str, ignored)} <= KNOWN_IGNORED:
        return None
    if not patterns or not {*patterns.values()} <= KNOWN_PATTERNS or exact.get("ignore_punctuation"):
        return None
    return {
        "strict": patterns.get("strict-match"),
        "flexible": patterns.get("flexible-extract"),
        "ignored": tuple(map(str, ignored)),
        "ignore_case": bool(exact.get("ignore_case", False)),
        "source": f"lm-eval {shortened(task, 60)} v{run.task_version(task)}",
    }


def _settings(run: _Run, task: str, config: Mapping[str, Any], scan: Scan | None) -> dict[str, Any]:
    """Return prompting and decoding with the keys of a native experiment, as far as the files tell."""
    prompting: dict[str, Any] = {}
    shots = whole(run.part("n-shot").get(task))
    if shots is None:
        shots = whole(config.get("num_fewshot"))
    if shots is not None:
        prompting["num_fewshot"] = shots
    template = run.document.get("chat_template")
    if scan is not None:
        prompting["apply_chat_template"] = scan.chat or bool(template)
    elif template:
        prompting["apply_chat_template"] = True
    elif "chat_template" in run.document and template is None:
        prompting["apply_chat_template"] = False
    multiturn = run.document.get("fewshot_as_multiturn")
    if isinstance(multiturn, bool):
        prompting["fewshot_as_multiturn"] = multiturn
    seed = whole(run.part("config").get("fewshot_seed"))
    if seed is not None:
        prompting["fewshot_seed"] = seed
    generation = config.get("generation_kwargs")
    generation = dict(generation) if isinstance(generation, dict) else {}
    overridden = run.part("config").get("gen_kwargs")
    generation |= overridden if isinstance(overridden, dict) else {}
    decode: dict[str, Any] = {}
    if generation:
        decode["do_sample"] = scan.sampled if scan is not None and scan.text else is_sampled(generation)
    length = (scan.max_new_tokens if scan else None) or whole(generation.get("max_gen_toks"))
    if length is not None:
        decode["max_new_tokens"] = length
    for key in ("temperature", "top_p", "top_k"):
        value = number(generation.get(key))
        if value is not None and decode.get("do_sample"):
            decode[key] = value
    until = scan.stop if scan is not None and scan.stop is not None else generation.get("until")
    if isinstance(until, list | tuple):
        decode["stop"] = [shortened(str(text), 60) for text in until[:20]]
    return {"prompting": prompting, "decode": decode}


def _warnings(run: _Run, task: str, scan: Scan | None) -> Iterator[str]:
    if run.document.get("chat_template") == "" and scan is not None and scan.chat:
        yield "the results name an empty chat template, but the prompts are chats: a server applied its own"
    if scan is not None:
        if scan.repeated:
            yield f"{scan.repeated} sample lines repeat a document that was there already; the first of each counts"
        if scan.wrong_hashes:
            yield f"{scan.wrong_hashes} sample lines have another reference than their hash says: they were changed"
        if scan.repeats > 1:
            yield f"up to {scan.repeats} answers per document; texts are scored on the first of each"
    if importers.UNDO_NAME.search(run.model_path) or importers.UNDO_NAME.search(run.adapter):
        yield "the model's name says that it takes tokens back: what it took back cannot be told from these files"


def _method(run: _Run) -> str:
    """Return `sft` with an adapter, `vanilla` for a model by its name, and unknown for somebody's checkpoint."""
    if run.adapter:
        return "sft"
    return importers.UNKNOWN if importers.is_checkpoint(run.model_path) else "vanilla"


def _model_name(run: _Run) -> str:
    base = importers.model_name(run.model_path)
    return f"{base}+{importers.model_name(run.adapter)}" if run.adapter else base


def _model_facts(run: _Run) -> dict[str, Any]:
    config = run.part("config")
    found: dict[str, Any] = {"model_path": shortened(run.model_path, 200)} if run.model_path else {}
    if run.adapter:
        found["adapter"] = shortened(run.adapter, 200)
    for key, name in (
        ("model_sha", "model_revision"),
        ("model_dtype", "dtype"),
        ("model_num_parameters", "parameters"),
    ):
        value = config.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            found[name] = shortened(value, 80) if isinstance(value, str) else value
    if isinstance(run.document.get("git_hash"), str):
        found["lm_eval_git_hash"] = shortened(run.document["git_hash"], 60)
    return found


def _versions(run: _Run) -> dict[str, str]:
    found = {"lm_eval": run.version, "transformers": name_of(run.document.get("transformers_version"), "")}
    environment = run.document.get("pretty_env_info")
    if isinstance(environment, str):
        match = re.search(r"PyTorch version: (\S{1,40})", environment[:2000])
        found["torch"] = match[1] if match else ""
    return {name: version for name, version in found.items() if version}


def _hardware(run: _Run) -> dict[str, Any]:
    device = run.part("config").get("device")
    return {"device": shortened(device, 60)} if isinstance(device, str) and device else {}


def _times(run: _Run) -> tuple[str | None, str | None]:
    """Return start and end: `date` is seconds since 1970, the duration a text or a number of seconds."""
    start = number(run.document.get("date"))
    if start is None or not 1.5e9 < start < 1e11:
        return None, None
    seconds = number(run.document.get("total_evaluation_time_seconds"))
    moments = [start] if seconds is None or not 0 <= seconds < 1e9 else [start, start + seconds]
    try:
        shown = [datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") for moment in moments]
    except (ValueError, OverflowError, OSError):
        return None, None
    return shown[0], shown[1] if len(shown) > 1 else None


def _bos(run: _Run) -> str | None:
    value = run.document.get("tokenizer_bos_token")
    text = value[0] if isinstance(value, list) and value else value
    return text if isinstance(text, str) and 0 < len(text) <= 40 else None


def _orphan(scan: Scan, options: Options) -> Found:
    """Samples without their results file: the scores are there, settings and model are not."""
    task = name_of(STAMP.sub("", scan.path.name).removeprefix("samples_").removesuffix(".jsonl"))
    source = f"lm-eval {shortened(task, 60)} v?"
    means = {key: key.partition(",") for key in scan.columns if lm_eval_metrics.is_share(key.partition(",")[0], task)}
    scales = {
        OURS.get(key, key): lm_eval_metrics.scale(m, task, scan.extremes(key)) for key, (m, _, _) in means.items()
    }
    definitions = {
        name: _definition(source, m, f, {}, scales[name])
        for key, (m, _, f) in means.items()
        for name in [OURS.get(key, key)]
    }
    others = sorted(scan.columns.keys() - means.keys())
    warnings = ["no results file of these samples: model, shots and whether all samples are here are unknown"]
    if others:
        warnings.append(f"{', '.join(others[:8])}: how lm-eval sums it up is not known without its results")
    if scan.sampled:
        warnings.append("sampled decoding: another run of the same model gives other answers")
    decode: dict[str, Any] = {"do_sample": scan.sampled} if scan.text else {}
    if scan.max_new_tokens is not None:
        decode["max_new_tokens"] = scan.max_new_tokens
    return Found(
        tool="lm-eval (version not written)",
        files=(scan.path,),
        part=task,
        model=options.model or importers.UNKNOWN,
        dataset=options.dataset or task,
        method=importers.UNKNOWN,
        config="lm_eval",
        items=_Stream(scan, options, scales),
        text_reason=None if scan.text else MULTIPLE_CHOICE,
        item_definitions=definitions,
        settings={"prompting": {"apply_chat_template": scan.chat}, "decode": decode},
        warnings=tuple(warnings),
        facts={"task": task, "samples": scan.documents},
    )
