"""What it costs to carry experiments out by an executor, beside the work itself; and whether memory grows with items.

    python benchmarks/executors.py                       # the demo's experiments by each executor, by turns
    python benchmarks/executors.py --items               # 10,000 questions that cost little, and jobs that do nothing
    python benchmarks/executors.py --executors inline slurm --option slurm:partition=debug

An item is one question of an experiment. The work is what the attempts' own clocks say, from the claim to the record;
scheduling is the rest of the run's time: starting processes, tasks and jobs, seeing that they ended, the page. Each
process imports torch anew, which its attempt counts as its work: how much longer the whole run takes than `inline`,
which imports it once, is said beside. One experiment runs at a time. For `--items` an answer is one token of the
bundled model, so that there is little but what an executor does for each. Memory is the resident size of `unsay run`
and, apart from that, of what it started that is no worker (with Ray: the cluster).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

import unsay
from unsay import config, cores, runner
from unsay.datasets import wordproblems
from unsay.placement import Placement, choose
from unsay.store import read

EXECUTORS = ("inline", "local", "ray")
ROUNDS = 3
ITEMS, JOBS = 10_000, 200
DEMO = Path(unsay.__file__).parent / "assets" / "demo.yaml"
# One at a time on every executor, as inline does it: a task or a job that takes all processors.
ALONE = {"ray": (f"num_cpus={cores.usable()}",), "slurm": (f"cpus={cores.usable()}",)}


@dataclass(frozen=True)
class Ran:
    """Seconds of a run, seconds of its attempts, questions answered; MiB of its own process and of the others."""

    clock: float
    work: float
    items: int
    memory: list[tuple[float, float]]


def growth(memory: Sequence[tuple[float, float]]) -> str:
    """Say how large the processes were in the second quarter of a run, and in its last tenth."""
    quarter = len(memory) // 4
    early, late = memory[quarter : max(2 * quarter, quarter + 1)], memory[-max(len(memory) // 10, 1) :]
    told = []
    for at, name in enumerate(("the run", "what it started")):
        before, after = (statistics.median(sample[at] for sample in part) for part in (early, late))
        told.append(f"{name} {before:.1f} MiB, in the end {after:.1f}")
    return "; ".join(told)


def measured(command: Sequence[str], folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """Run a command in a folder; return its seconds and the sizes of its processes, five times a second."""
    memory: list[tuple[float, float]] = []
    over = threading.Event()
    with (folder / "output.txt").open("ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        watch = threading.Thread(target=_watch, args=(process.pid, memory, over))
        watch.start()
        code = process.wait()
        clock = time.monotonic() - began
        over.set()
        watch.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with code {code}:\n{(folder / 'output.txt').read_text()[-2000:]}")
    return clock, memory


def _watch(pid: int, memory: list[tuple[float, float]], over: threading.Event) -> None:
    while not over.wait(0.2):
        try:
            process = psutil.Process(pid)
            own, others = process.memory_info().rss, 0
            for child in process.children(recursive=True):
                try:
                    if not {"unsay.worker", "unsay.shard"}.intersection(child.cmdline()):
                        others += child.memory_info().rss
                except psutil.Error:
                    continue
            memory.append((own / 2**20, others / 2**20))
        except psutil.Error:
            continue


def run(folder: Path, executor: str, options: Sequence[str], *arguments: str) -> Ran:
    """Carry out lab.yaml in a folder as a process of its own."""
    given = [part for option in (*ALONE.get(executor, ()), *options) for part in ("--option", option)]
    wait = ["--wait"] if executor == "slurm" else []
    command = [sys.executable, "-m", "unsay", "run", "lab.yaml", "--device", "cpu", "--executor", executor]
    clock, memory = measured([*command, *given, *wait, *arguments], folder)
    entries = [(entry, entry.record) for entry in read.find(folder / "outputs") if entry.record is not None]
    attempts = [attempt for _, record in entries for attempt in record.attempts]
    answered = sum(entry.limit or record.items or 0 for entry, record in entries if record.attempts)
    work = sum(sum(attempt.timings.values()) for attempt in attempts)
    return Ran(clock, work, answered, memory)


def digits(outputs: Path) -> str:
    """Return every metric of a lab, to be compared."""
    found = {
        entry.relative: {name: metric.value for name, metric in read.metrics(entry.folder).items()}
        for entry in read.find(outputs)
        if entry.record is not None and entry.record.status == "completed"
    }
    return json.dumps(found, sort_keys=True)


def scheduling(executors: Sequence[str], options: Callable[[str], list[str]], rounds: int, limit: int) -> None:
    """The demo's matrix by each executor, by turns."""
    ran: dict[str, list[Ran]] = {name: [] for name in executors}
    known = ""
    for round in range(rounds):
        for name in executors:
            with tempfile.TemporaryDirectory(prefix="unsay-bench-") as place:
                folder = Path(place)
                shutil.copy(DEMO, folder / "lab.yaml")
                one = run(folder, name, options(name), *(["--limit", str(limit)] if limit else []))
                known = known or digits(folder / "outputs")
                if digits(folder / "outputs") != known:
                    sys.exit(f"{name}: other metrics than {executors[0]}")
            ran[name].append(one)
            print(
                f"round {round + 1}  {name:<7} {one.clock:7.1f} s, work {one.work:7.1f} s, {one.items} items",
                flush=True,
            )
    for name in executors:
        shares = [100 * (one.clock - one.work) / one.work for one in ran[name]]
        each = statistics.median(1000 * (one.clock - one.work) / one.items for one in ran[name])
        against = statistics.median(
            mine.clock / theirs.clock for mine, theirs in zip(ran[name], ran[executors[0]], strict=True)
        )
        print(
            f"{name:<7} scheduling {statistics.median(shares):.2f} % ({min(shares):.2f} to {max(shares):.2f}) of the "
            f"work, {each:.1f} ms an item; {against:.3f} times the time of {executors[0]}"
        )


def items(executors: Sequence[str], options: Callable[[str], list[str]], count: int, jobs: int) -> None:
    """Questions and jobs that cost next to nothing, and the memory of whoever passes them on."""
    for name in executors:
        with tempfile.TemporaryDirectory(prefix="unsay-bench-") as place:
            folder = Path(place)
            _write_lab(folder, count)
            ran = run(folder, name, options(name))
            print(f"{name:<7} {ran.items} items in {ran.clock:.0f} s: {growth(ran.memory)}", flush=True)
        if name == "slurm":  # its jobs outlive whoever submits them, who has nothing to hold
            continue
        with tempfile.TemporaryDirectory(prefix="unsay-bench-") as place:
            folder = Path(place)
            _write_lab(folder, 1)
            run(folder, "inline", [])
            again = [sys.executable, str(Path(__file__).absolute()), "--again", name, "--jobs", str(jobs)]
            again += [part for option in options(name) for part in ("--option", f"{name}:{option}")]
            clock, memory = measured(again, folder)
            print(f"{name:<7} {jobs} jobs, {1000 * clock / jobs:.0f} ms each: {growth(memory)}", flush=True)


def _write_lab(folder: Path, count: int) -> None:
    (folder / "data").mkdir()
    for split, rows in (("train", 1), ("test", count)):
        lines = (json.dumps(row) + "\n" for row in wordproblems.generate(split, rows))
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines))
    experiment = {"model": "unsay-tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0"}
    document = {
        "datasets": {"own": {"path": "./data"}},
        "experiments": [experiment | {"decode": {"max_new_tokens": 1}}],
    }
    (folder / "lab.yaml").write_text(json.dumps(document))


def again(executor: str, options: Sequence[str], jobs: int) -> None:
    """Submit a finished experiment again and again: its worker starts, sees that there is nothing to do, and ends."""
    plan = config.load(Path("lab.yaml"))
    job = runner.job_of(plan, plan.experiments[0], runner.Options(device="cpu"))
    made = choose(Placement(), executor, options).executor()
    mistakes = made.check([job])
    if mistakes:
        sys.exit("\n".join(mistakes))
    for _ in range(jobs):
        outcome = made.submit(job, lambda _: None).wait()
        if outcome.status != "completed":
            sys.exit(str(outcome.error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", nargs="+", default=list(EXECUTORS))
    parser.add_argument("--option", action="append", default=[], metavar="EXECUTOR:KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=int, default=0, help="questions of each experiment; all without it")
    parser.add_argument("--items", action="store_true", help="memory instead of time")
    parser.add_argument("--count", type=int, default=ITEMS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--again", metavar="EXECUTOR", help=argparse.SUPPRESS)
    asked = parser.parse_args()

    def options(name: str) -> list[str]:
        return [each.partition(":")[2] for each in asked.option if each.partition(":")[0] == name]

    if asked.again:
        again(asked.again, options(asked.again), asked.jobs)
    elif asked.items:
        items(asked.executors, options, asked.count, asked.jobs)
    else:
        scheduling(asked.executors, options, asked.rounds, asked.limit)


if __name__ == "__main__":
    main()
