"""Mutated files through import and score: no traceback, no hang, bounded memory.

Each case takes a small folder of good files, harms one of them (bytes, structure or size) and takes the folder through
`collect`, `put` and `score`. Only the project's own errors may come out.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers import foreign
from unsay import foreign_scores, handkept_page, importing
from unsay.errors import UnsayError
from unsay.importers import Options

ROOT = Path(__file__).parents[2]
SHARDS, CASES = 8, 6_500
"""52,000 cases in all."""
LONGEST = 20.0
"""Seconds one small case may take on a busy machine before it counts as a hang."""
MOST_MEMORY = 2**30

PAGE = """| Experiment ID | Model | Dataset | Method | Config | EM (strict) | BLEU | Start Date | Results | Notes |
|---|---|---|---|---|---|---|---|---|---|
| EXP-001 | m | gsm8k | vanilla | fewshot_8 | 79.30 ± 1.12 | - | 2025-01-03 | [r](a/results_2025-10-03T1.json) | x |
"""
YAML = "model_name_or_path: Qwen/Qwen3-4B\nstage: sft\nfinetuning_type: lora\ndataset: a,b\ndo_train: true\n"


# -- good files -------------------------------------------------------------------


def good_files() -> dict[str, dict[str, bytes]]:
    """Small folders of every kind, by name."""

    def lines(rows: list[dict[str, Any]]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    run = foreign.samples(4, 2)
    solution = {"question": "What is 1 + 1?", "ground_truth": "It is 2\nA: 2"}
    systems = {"big": {"solution": "A: 2", "is_correct": True}, "small": {"solution": "A: 3", "is_correct": False}}
    generated = {"question": "1 + 1?", "gold_answer": "2", "generated_text": "It is 2.", "correct": True,
                 "num_backtracks": 0, "tokens_generated": 9}  # fmt: skip
    log = [{"current_steps": i, "total_steps": 9, "loss": 1 / i, "lr": 1e-4, "epoch": i / 9} for i in range(1, 6)]
    return {
        "lm_eval": {
            f"samples_gsm8k_{foreign.STAMP}.jsonl": lines(run),
            f"results_{foreign.STAMP}.json": json.dumps(foreign.results(run, 4, 2)).encode(),
        },
        "llamafactory": {
            "generated_predictions.jsonl": lines(foreign.predictions(4)),
            "predict_results.json": b'{"predict_bleu-4": 50.5, "predict_runtime": 2, "predict_samples_per_second": 2}',
            "adapter_config.json": b'{"base_model_name_or_path": "Qwen/Qwen3-4B", "r": 8, "lora_alpha": 16}',
            "train.yaml": YAML.encode(),
            "trainer_log.jsonl": lines(log),
            "trainer_state.json": json.dumps({"global_step": 5, "max_steps": 9, "log_history": log}).encode(),
        },
        "solutions": {"solutions.jsonl": lines([solution | systems] * 3)},
        "generations": {
            "eval.json": json.dumps(
                {"metrics": {"accuracy": 1.0, "config": {"model_path": "x/backtrack", "max_new_tokens": 9}},
                 "samples": [generated] * 3}
            ).encode()
        },
        "page": {"page.md": PAGE.encode()},
    }  # fmt: skip


# -- harm -------------------------------------------------------------------------

Harm = Callable[[bytes, random.Random], bytes]
TOKENS = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"null", b"true", b'""', b"[]", b"{}", b"[[]]", b"9" * 400),
    *(b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xed\xa0\x80", b'"' + b"x" * 3000 + b'"', b"\x1b[31m", b"\xe2\x80\xae"),
    *(b",", b"}", b"]", b'"', b"\\", b"\n", b"\r\n", b"\0", b"#### ", b"<|BACKTRACK|>", b"|", b"\xe2\x80\xa8"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 1e308, -1e-308, 2**63, 10**30, float("nan"), float("inf"), "", "a", "N/A"),
    *("1.5", "\ud800", "x" * 2000, [], {}, [[]], [None], {"": 0}, ["a", 1], {"a": {"b": []}}),
]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(1, 400))
    return data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]


def remove(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 200) :]


def nest(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((10, 900, 5_000, 60_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b"")))
    at = rng.randrange(len(data) + 1)
    return data[:at] + opened * depth + (closed * depth if rng.random() < 0.5 else b"") + data[at:]


def ends(data: bytes, rng: random.Random) -> bytes:
    made = (
        b"\xef\xbb\xbf" + data,
        data.replace(b"\n", b"\r\n"),
        data.rstrip(b"\n"),
        data.replace(b"\n", b"\n\n"),
        b"\n" + data,
        data.decode("utf-8", "replace").encode("utf-16"),
    )
    return rng.choice(made)


def shuffle(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines[: rng.randrange(len(lines) + 1)] or lines)


def twice(data: bytes, rng: random.Random) -> bytes:
    at = data.find(b'": ', rng.randrange(max(1, len(data))))
    start = data.rfind(b'"', 0, max(0, at))
    return data if min(at, start) < 0 else data[:start] + data[start : at + 3] + b"0, " + data[start:]


def retype(data: bytes, rng: random.Random) -> bytes:
    """Put another value, of any type, somewhere into one of the JSON documents."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at] if len(lines) > 2 else data)
    except (ValueError, RecursionError):
        return insert(data, rng)
    for _ in range(rng.choice((1, 1, 3))):
        value = _changed(value, rng)
    made = json.dumps(value).encode()
    if len(lines) > 2:
        return b"\n".join([*lines[:at], made, *lines[at + 1 :]])
    return made


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        how = rng.random()
        rest = {k: v for k, v in value.items() if k != key}
        if how < 0.1:
            return rest
        if how < 0.2:
            return rest | {rng.choice(["", "x", "\ud800", "results", key.upper(), key + ",none"]): value[key]}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


HARMS: tuple[Harm, ...] = (flip, cut, insert, repeat, remove, nest, ends, shuffle, twice, retype, retype, retype)


# -- one case ---------------------------------------------------------------------


def cases(seed: int, count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield folders with one harmed file each (now and then two); the same seed gives the same cases."""
    rng = random.Random(seed)
    kinds = good_files()
    for _ in range(count):
        kind = rng.choice(list(kinds))
        files = dict(kinds[kind])
        for _ in range(rng.choice((1, 1, 1, 2))):
            name = rng.choice(list(files))
            files[name] = rng.choice(HARMS)(files[name], rng)
        yield kind, files


def run_case(kind: str, files: dict[str, bytes], place: Path) -> str:
    """Take one folder through import and score; return what became of it. Raises whatever is not the project's own."""
    source, lab = place / "source", place / "lab"
    for folder in (source, lab):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    for name, data in files.items():
        (source / name).write_bytes(data)
    options = Options(marker="A:")
    rows, more = [], []
    try:
        collected = importing.collect([source], options)
        if kind == "page":
            rows = handkept_page.read_page(source / "page.md")
            more = handkept_page.experiments(source / "page.md", rows, collected.found)
        outcomes = list(importing.put(lab, [*collected.found, *more], options, page=rows, processes=1))
        for found in collected.found[:1]:
            foreign_scores.score(found, options, processes=1)
    except UnsayError as error:
        return "refused" if str(error).strip() else "nothing said"
    assert all(each.reason for each in collected.refused)
    assert all(one.error or one.did != "refused" for one in outcomes)
    return "added" if any(one.did == "added" for one in outcomes) else "refused" if collected.refused else "nothing"


def fuzz(seed: int, count: int, place: Path) -> dict[str, int]:
    told = {"added": 0, "refused": 0, "nothing": 0}
    for at, (kind, files) in enumerate(cases(seed, count)):
        started = time.monotonic()
        try:
            told[run_case(kind, files, place)] += 1
        except Exception as error:
            raise RuntimeError(f"case {at} of seed {seed} ({kind}) ends with {type(error).__name__}") from error
        taken = time.monotonic() - started
        assert taken < LONGEST, f"case {at} of seed {seed} ({kind}) took {taken:.1f} s"
    told["memory"] = peak_memory()
    return told


def peak_memory() -> int:
    """Return the most bytes this process has held. Its `ru_maxrss` would begin with that of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M)[1]) * 1024  # type: ignore[index]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: the lab waits for the disk after every file."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def in_a_process_of_its_own(seed: int, count: int, place: Path) -> dict[str, int]:
    """Fuzz in a fresh process, so that its peak memory is its own."""
    code = (
        "import json, sys; from pathlib import Path; from tests.e2e.test_import_fuzz import fuzz;"
        f"print(json.dumps(fuzz({seed}, {count}, Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, int] = json.loads(done.stdout)
    return told


def test_a_few_hundred_harmed_files(place: Path) -> None:
    told = in_a_process_of_its_own(12345, 300, place)
    assert told["added"] + told["refused"] + told["nothing"] == 300
    assert min(told["added"], told["refused"]) > 30
    assert told["memory"] < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_fifty_thousand_harmed_files(place: Path, shard: int) -> None:
    told = in_a_process_of_its_own(shard, CASES, place)
    assert told["added"] + told["refused"] + told["nothing"] == CASES
    assert min(told["added"], told["refused"]) > CASES // 20
    assert told["memory"] < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"[],", b'{"a":1},', b'"ab",', b"1e1,", b'[{"":[]}],', b"x"])
@pytest.mark.parametrize("name", ["samples_gsm8k_x.jsonl", "generated_predictions.jsonl", "results_x.json", "x.yaml"])
def test_a_line_of_100_megabytes(tmp_path: Path, unit: bytes, name: str) -> None:
    """Just below the limits as well as far above them."""
    from unsay import importers

    for size in (100 * 10**6, importers.LONGEST_LINE - 200):
        body = unit * (size // len(unit))
        text = b'{"results": [' + body + b'null], "doc_id": 1, "resps": [], "predict": "a", "label": "b"}\n'
        if unit == b"x":
            text = b'{"predict": "' + body + b'", "label": "b", "doc_id": 1, "resps": [["' + body[:10] + b'"]]}\n'
        folder = tmp_path / f"size{size}"
        folder.mkdir()
        (folder / name).write_bytes(text)
        code = (
            "import sys; from pathlib import Path; from unsay import importing;"
            "from unsay.importers import Options; from tests.e2e.test_import_fuzz import peak_memory;"
            "c = importing.collect([Path(sys.argv[1])], Options());"
            "o = list(importing.put(Path(sys.argv[2]), c.found, Options(), processes=1));"
            "print(peak_memory())"
        )
        command = [sys.executable, "-c", code, str(folder / name), str(tmp_path / f"lab{size}")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout) < MOST_MEMORY
        shutil.rmtree(folder)
