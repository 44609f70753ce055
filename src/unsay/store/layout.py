"""Every file name under a lab folder, spelled once. Knows nothing about what is in the files.

layout.traces(folder)     # …/fewshot_8/traces.jsonl
"""

from __future__ import annotations

from pathlib import Path

PAGE = "EXPERIMENTS.md"
EXPERIMENT = "experiment.json"
TRACES = "traces.jsonl"
PROMPTS = "prompts.jsonl"
PREDICTIONS = "generated_predictions.jsonl"
METRICS = "metrics.json"
SCORES = "scores.jsonl"
# What generated which of the traces.
ENGINES = "engines.jsonl"
# Whoever is at work in a folder leaves a file of its own there; one that only reads a training, a shared one.
CLAIM_PREFIX, SHARED = ".claim-", "shared-"
HEARTBEAT = ".heartbeat"
# Asks whoever carries the experiment out, on another machine, to stop.
CANCEL = ".cancel"
# Where the experiment waits in a batch system's queue, or runs as its job: as which one.
TICKET = ".queued.json"
# In the lab folder: what was submitted to a batch system, a folder for each time.
SUBMITTED = ".submitted"
# Beside an experiment's record: it is hidden from lists and the page.
ARCHIVED = ".archived"
# In the lab folder: a copy for fast listing; delete it and it is made again.
INDEX = ".index.sqlite"
# A torn tail of an append-only file goes here, beside it; a file being written has such a name until it is renamed.
TORN_SUFFIX = ".torn"
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".unsay-", ".tmp"
TRAIN = "train"
DATA = "data"
LOGS = "logs"
SUPERSEDED = "superseded"
LIMIT_PREFIX = "limit_"
# Prompts in parts, while several processes answer them: of an evaluation, of a model's own answers.
SHARDS, SAMPLE_SHARDS = ".shards", ".sample-shards"
ORDER = "order.json"
# Results that other tools made, below the lab folder.
IMPORTED = "imported"
# A plan in small, below the lab folder: its models, a lab of its own, the page and this report.
REHEARSAL = ".rehearsal"
REHEARSAL_REPORT = "rehearsal.json"
# lm-eval's harness folder below the method of an experiment that is only evaluated.
HARNESS = "lm_eval"

ROWS = "train.jsonl"
REFUSED = "refused.jsonl"
MANIFEST = "manifest.json"
PIECES = "pieces.json"
# Answers of a model to training questions, while not all of them are there.
SAMPLED = "sampled.jsonl"
UNDO_TABLE = "undo.json"
TRAINER_LOG = "trainer_log.jsonl"
TRAINER_STATE = "trainer_state.json"
TRAIN_RESULTS = "train_results.json"
TRAINED = "trained.json"


def limited(folder: Path, limit: int | None) -> Path:
    """Return where the results of a run go: the experiment's folder, or its `limit_<n>` folder."""
    return folder if limit is None else folder / f"{LIMIT_PREFIX}{limit}"


def superseded(folder: Path, identity: str) -> Path:
    return folder / SUPERSEDED / identity[:12]


def train(folder: Path) -> Path:
    return folder / TRAIN


def data(folder: Path) -> Path:
    return folder / DATA


def logs(folder: Path) -> Path:
    return folder / LOGS


def page(output_dir: Path) -> Path:
    """Return the experiment page: beside the lab folder, so that its links start with that folder's name."""
    return output_dir.parent / PAGE


def is_result_name(name: str) -> bool:
    """Say whether a file in an experiment folder belongs to its evaluation (and moves away with it)."""
    fixed = {EXPERIMENT, TRACES, PROMPTS, PREDICTIONS, METRICS, SCORES, ENGINES, SHARDS}
    return name.removesuffix(TORN_SUFFIX) in fixed or name.startswith(("results_", "samples_"))
