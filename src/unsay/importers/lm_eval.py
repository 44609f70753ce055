"""lm-eval's results_*.json and samples_*.jsonl, versions 0.4.0 to 0.4.13.

One experiment per task of a results file, and one per group. Samples belong to it when their hashes are the ones the
results name (that also shows that they are complete); else by name. Published values are kept where the samples cannot
bring them out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unsay import importers
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
UNSCALED = ("perplexity", "bits_per_byte", "bleu", "chrf", "ter", "loglikelihood", "brier", "mcc", "rouge")
"""Metrics whose own scale is kept; the others are fractions when they lie between 0 and 1."""
MULTIPLE_CHOICE = "answers chosen by likelihood, not written: there is no text to score"

GSM8K_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
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
        return file.path.suffix == ".jsonl" and b'"doc_id"' in importers.head(file.path)

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
        used: set[Path] = set()
        for file in mine:
            if file.path.suffix != ".json":
                continue
            try:
                document = importers.mapping(file.path)
                if not isinstance(document.get("results"), dict):
                    if NAMED.fullmatch(file.name):
                        raise ForeignError(f"expected lm-eval's key `results`, got {keys_of(document)}")
                    continue
                made = list(_experiments(file.path, document, scans, options))
            except ForeignError as error:
                refused.append(Refused(file.path, str(error)))
                continue
            if not made:
                refused.append(Refused(file.path, "expected at least one task with a metric, got none"))
            found += made
            used |= {path for each in made for path in each.files}
        for scan in scans:
            if scan.path not in used:
                found.append(_orphan(scan, options))
        return found, refused


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
        config = self.part("configs").get(task)
        metadata = config.get("metadata") if isinstance(config, dict) else None
        for value in (self.part("versions").get(task), metadata.get("version") if isinstance(metadata, dict) else None):
            found = number(value)
            if found is not None:
                return f"{found:g}"
        return "?"

    def stamp(self) -> str:
        match = STAMP.search(self.path.name)
        return match[1] if match else ""


def _experiments(path: Path, document: Mapping[str, Any], scans: Sequence[Scan], options: Options) -> Iterator[Found]:
    run = _Run(path, document)
    results = run.part("results")
    if len(results) > 10_000:
        raise ForeignError(f"expected at most 10,000 tasks, got {len(results)}")
    groups = {name: members for name, members in run.part("group_subtasks").items() if isinstance(members, list)}
    for task, values in results.items():
        if isinstance(values, dict):
            members = [member for member in groups.get(task, ()) if isinstance(member, str)]
            made = _experiment(run, task, values, members, scans, options)
            if made is not None:
                yield made


def _experiment(
    run: _Run, task: str, values: Mapping[str, Any], members: list[str], scans: Sequence[Scan], options: Options
) -> Found | None:
    stated = _stated(values)
    if not stated:
        return None
    config = run.part("configs").get(task)
    config = config if isinstance(config, dict) else {}
    effective, original = _sizes(run, task, members)
    scan, complete = (None, False) if members else _samples_of(run, task, effective, stated, scans)
    seen = {key: scan.extremes(key) if scan is not None else [] for key in stated}
    scales = {key: _scale(key, [value, *seen[key]]) for key, (value, _) in stated.items()}
    definitions = {key: _definition(run, task, key) + _unscaled(scales[key]) for key in stated}
    warnings = list(_warnings(run, task, config, scan))
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
    settings = _settings(run, config, scan)
    summary: dict[str, MetricValue] = {}
    for key, (value, stderr) in stated.items():
        scale = scales[key]
        shown = None if stderr is None else stderr * scale
        summary[OURS.get(key, key)] = importers.published(
            value * scale, shown, effective, definitions[key], why, bounded=scale == 100.0
        )
        if scan is not None and complete:
            mean = scan.mean(key)
            if mean is not None and abs(mean - value) > 1e-9:
                warnings.append(f"{key}: published {value!r}, but the mean over all samples is {mean!r}")
    facts: dict[str, Any] = {"task": task, "published": {key: value for key, (value, _) in stated.items()}}
    if members:
        facts["group"] = members[:200]
    if scan is not None:
        facts["samples"] = scan.documents
        facts["samples_verified"] = "by hash" if complete and scan.task_hash == _task_hash(run, task) else "by name"
    start, end = _times(run)
    sampled = settings.get("decode", {}).get("do_sample")
    if sampled:
        warnings.append("sampled decoding: another run of the same model gives other answers")
    return Found(
        tool=run.tool,
        files=(run.path, *([scan.path] if scan else [])),
        part=task,
        model=options.model or _model_name(run),
        dataset=options.dataset or name_of(task),
        method="sft" if run.adapter else "vanilla",
        config=f"fewshot_{settings['prompting']['num_fewshot']}"
        if "num_fewshot" in settings["prompting"]
        else "lm_eval",
        published=summary,
        items=None if scan is None else _Stream(scan, options, scales),
        expected=effective if scan is not None else None,
        limit=effective if effective is not None and original is not None and effective < original else None,
        exact_match=_exact_match(run, task, config, settings),
        text_reason=None if scan is None or scan.text else MULTIPLE_CHOICE,
        item_definitions={OURS.get(key, key): text for key, text in definitions.items()},
        settings=settings,
        versions=_versions(run),
        hardware=_hardware(run),
        start=start,
        end=end,
        seed=0,
        warnings=tuple(warnings),
        facts=facts | ({"total": original} if original is not None else {}) | _model_facts(run),
        bos=_bos(run),
    )


@dataclass(frozen=True)
class _Stream:
    """The items of a scanned file, read again each time."""

    scan: Scan
    options: Options
    scales: Mapping[str, float]

    def __call__(self) -> Iterator[Item]:
        return items_of(self.scan, self.options, self.scales, OURS)


def _stated(values: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Return value and standard error of every metric of a task, under lm-eval's key `metric,filter`."""
    found: dict[str, tuple[float, float | None]] = {}
    newer = any("," in key for key in values)
    for key, value in values.items():
        name, comma, filter_name = key.partition(",")
        if name.endswith("_stderr") or key in NOT_METRICS or isinstance(value, bool | str) or len(key) > 200:
            continue
        shown = number(value)
        if shown is None or bool(comma) != newer:
            continue
        error = number(values.get(f"{name}_stderr,{filter_name}" if comma else f"{name}_stderr"))
        found[key if comma else f"{key},none"] = (shown, error)
    return dict(list(found.items())[:64])


def _scale(key: str, values: Iterable[float]) -> float:
    """Return 100 for a metric that lm-eval states as a fraction, 1 for one with a scale of its own."""
    own = any(word in key.partition(",")[0].casefold() for word in UNSCALED)
    return 1.0 if own or not all(0 <= value <= 1 for value in values) else 100.0


def _unscaled(scale: float) -> str:
    return "" if scale == 100.0 else ", unscaled"


def _sizes(run: _Run, task: str, members: Sequence[str]) -> tuple[int | None, int | None]:
    """Return how many documents were evaluated, and how many there are."""
    sizes = run.part("n-samples")

    def of(name: str) -> tuple[int | None, int | None]:
        entry = sizes.get(name)
        entry = entry if isinstance(entry, dict) else {}
        return whole(entry.get("effective")), whole(entry.get("original"))

    if not members:
        return of(task)
    inner = [of(member) for member in members]
    effective, original = ([size[which] for size in inner] for which in (0, 1))
    return (
        sum(size for size in effective if size is not None) if None not in effective else None,
        sum(size for size in original if size is not None) if None not in original else None,
    )


def _samples_of(
    run: _Run,
    task: str,
    effective: int | None,
    stated: Mapping[str, tuple[float, float | None]],
    scans: Sequence[Scan],
) -> tuple[Scan | None, bool]:
    """Find the samples of a task, and say whether they are all there."""
    wanted = _task_hash(run, task)
    same = [scan for scan in scans if wanted and scan.task_hash == wanted]
    beside = [scan for scan in same if scan.path.parent == run.path.parent and scan.stamp == run.stamp()]
    if beside:
        return beside[0], True
    # The hash covers documents, prompts and references, not the answers: two runs on one task share it. Elsewhere only
    # samples that bring the published values out again are this run's.
    fitting = [scan for scan in same if _brings_out(scan, stated)]
    if fitting:
        return min(fitting, key=lambda scan: scan.path.parent != run.path.parent), True
    here = [
        scan
        for scan in scans
        if scan.path.parent == run.path.parent and STAMP.sub("", scan.path.name) == f"samples_{_sanitized(task)}"
    ]
    timed = [scan for scan in here if scan.stamp == run.stamp()]
    scan = timed[0] if timed else here[0] if len(here) == 1 and not run.stamp() else None
    if scan is None:
        return None, False
    complete = not wanted and effective is not None and scan.documents == effective
    return scan, complete


def _brings_out(scan: Scan, stated: Mapping[str, tuple[float, float | None]]) -> bool:
    means = {key: scan.mean(key) for key in stated if key in scan.columns}
    return bool(means) and all(mean is not None and abs(mean - stated[key][0]) < 1e-9 for key, mean in means.items())


def _sanitized(task: str) -> str:
    return re.sub(r"\W", "_", task)


def _task_hash(run: _Run, task: str) -> str:
    value = run.part("task_hashes").get(task)
    return value if isinstance(value, str) else ""


def _definition(run: _Run, task: str, key: str) -> str:
    metric, _, filter_name = key.partition(",")
    shown = shortened(task, 60)
    if key in OURS:
        return f"lm-eval {shown} v{run.task_version(task)} {filter_name}"
    return f"lm-eval {shown} v{run.task_version(task)} {shortened(metric, 60)},{shortened(filter_name, 60)}"


def _exact_match(run: _Run, task: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any] | None:
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


def _settings(run: _Run, config: Mapping[str, Any], scan: Scan | None) -> dict[str, Any]:
    """Return prompting and decoding with the keys of a native experiment, as far as the files tell."""
    prompting: dict[str, Any] = {}
    shots = whole(run.part("n-shot").get(str(config.get("task"))))
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


def _warnings(run: _Run, task: str, config: Mapping[str, Any], scan: Scan | None) -> Iterator[str]:
    if run.document.get("chat_template") == "" and scan is not None and scan.chat:
        yield "the results name an empty chat template, but the prompts are chats: a server applied its own"
    if scan is not None:
        if scan.repeated:
            yield f"{scan.repeated} sample lines repeat a document that was there already; the first of each counts"
        if scan.wrong_hashes:
            yield f"{scan.wrong_hashes} sample lines have another reference than their hash says: they were changed"
        if scan.repeats > 1:
            yield f"up to {scan.repeats} answers per document; texts are scored on the first of each"
        name = STAMP.sub("", scan.path.name).removeprefix("samples_")
        if name not in (task, _sanitized(task)):
            yield f"misleading name: the samples file is called {shortened(scan.path.name, 60)}, it holds {task}"
    if importers.UNDO_NAME.search(run.model_path) or importers.UNDO_NAME.search(run.adapter):
        yield "the model's name says that it takes tokens back: what it took back cannot be told from these files"


def _model_name(run: _Run) -> str:
    if run.adapter:
        return f"{name_of(run.model_path)}+{name_of(run.adapter)}"
    return name_of(run.model_path)


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
    scales = {key: _scale(key, scan.extremes(key)) for key in scan.columns}
    decode: dict[str, Any] = {"do_sample": scan.sampled} if scan.text else {}
    if scan.max_new_tokens is not None:
        decode["max_new_tokens"] = scan.max_new_tokens
    named = f"lm-eval {shortened(task, 60)} v?"
    return Found(
        tool="lm-eval (version not written)",
        files=(scan.path,),
        part=task,
        model=options.model or importers.UNKNOWN,
        dataset=options.dataset or task,
        method="vanilla",
        config="lm_eval",
        items=_Stream(scan, options, scales),
        expected=None,
        text_reason=None if scan.text else MULTIPLE_CHOICE,
        item_definitions={OURS.get(key, key): f"{named} {key}{_unscaled(scales[key])}" for key in scan.columns},
        settings={"prompting": {"apply_chat_template": scan.chat}, "decode": decode},
        warnings=(
            "no results file beside the samples: model, shots and whether all samples are here are unknown",
            *(["sampled decoding: another run of the same model gives other answers"] if scan.sampled else []),
        ),
        facts={"task": task, "samples": scan.documents},
    )
