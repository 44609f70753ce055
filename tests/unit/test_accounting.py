"""What an experiment took: measured where it can be, a reason where it cannot, summed over all attempts."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.lab import ARMS, change_record, make, make_lab
from unsay import accounting, cli, config
from unsay.accounting import NO_GPU, NOT_INSTALLED, OF_A_SERVER, Meter, host_peak, total, with_heartbeat
from unsay.job import Job
from unsay.records import Attempt
from unsay.report import costs
from unsay.report.markdown import write_page
from unsay.store import layout, read, write
from unsay.worker import carry_out

MIB = 2**20
SOURCE = str(Path(accounting.__file__).parents[1])


def fresh(code: str) -> list[str]:
    """Run code in a new process; return the words it prints."""
    environment = os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# -- measuring ----------------------------------------------------------------------


def test_stages_are_measured_one_by_one() -> None:
    meter = Meter()
    meter.count({"tokens_read": 5})  # before any stage: nothing to add it to
    meter.begin("train")
    time.sleep(0.05)
    meter.count({"tokens_read": 10})
    meter.count({"tokens_read": 30})
    meter.begin("evaluate")
    meter.count({"tokens_read": 7, "tokens_written": 9, "tokens_taken_back": 2, "anything": 3})
    halfway = meter.so_far()
    ended = meter.end()
    assert meter.end() == ended
    assert ended["timings"].keys() == {"train", "evaluate"} == halfway["timings"].keys()
    assert 0.05 <= ended["timings"]["train"] < 5
    train, evaluate = (ended["usage"][stage] for stage in ("train", "evaluate"))
    assert (train["tokens_read"], train["tokens_written"], train["tokens_taken_back"]) == (30, None, None)
    assert (evaluate["tokens_read"], evaluate["tokens_written"], evaluate["tokens_taken_back"]) == (7, 9, 2)
    assert train["gpus"] == train["gpu_seconds"] == 0
    assert train["energy_joules"] is None
    assert train["reasons"] == {"energy_joules": NO_GPU}
    assert train["peak_memory_bytes"] > 5 * MIB
    assert "anything" not in evaluate
    json.dumps(ended, allow_nan=False)


def test_a_stage_that_comes_again_is_added_to() -> None:
    meter = Meter()
    for tokens in (3, 4):
        meter.begin("data")
        time.sleep(0.02)
        meter.count({"tokens_read": tokens})
    ended = meter.end()
    assert ended["timings"]["data"] >= 0.04
    assert ended["usage"]["data"]["tokens_read"] == 7


def test_another_thread_may_look_while_stages_go_on() -> None:
    meter, seen, over = Meter(), [], threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(meter.so_far())

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(200):
        meter.begin(f"stage {number % 3}")
        meter.count({"tokens_read": 1})
    over.set()
    thread.join()
    assert len(seen) > 5
    assert sum(stage["tokens_read"] for stage in meter.end()["usage"].values()) == 200


MEMORY = """
from unsay.accounting import Meter, _CLEAR
meter = Meter()
meter.begin("large"); block = bytearray(300 * 2**20); block[::4096] = b"x" * len(block[::4096]); del block
meter.begin("small")
usage = meter.end()["usage"]
print(usage["large"]["peak_memory_bytes"], usage["small"]["peak_memory_bytes"])
"""


@pytest.mark.parametrize("clear", [True, False], ids=["as the system does", "where the peak cannot be cleared"])
def test_every_stage_has_a_peak_of_its_own(clear: bool) -> None:
    cannot = "import unsay.accounting as a; from pathlib import Path; a._CLEAR = Path('/nowhere/at/all')\n"
    large, small = map(int, fresh(MEMORY if clear else cannot + MEMORY))
    assert large > 300 * MIB
    assert small < 200 * MIB


def test_the_peak_of_a_process_is_its_own_and_not_that_of_its_parent() -> None:
    block = bytearray(300 * MIB)
    block[::4096] = b"x" * len(block[::4096])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > 300 * MIB
    (peak,) = map(int, fresh("from unsay.accounting import host_peak; print(host_peak())"))
    assert 5 * MIB < peak < 200 * MIB
    assert host_peak() > len(block)


class Driver:
    """What nvidia-ml-py is asked, with two GPUs that take 100 and 250 W."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.began = time.monotonic()

    def _answer(self, name: str, value: Any = None) -> Any:
        if self.fails == name:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's names
        self._answer("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, at: int) -> int:  # noqa: N802
        return at

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{'ab'[handle]}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return int(self._answer("energy", (100, 250)[handle] * 1000 * (time.monotonic() - self.began)))


class Cuda:
    """What is asked of torch.cuda, where this process uses the second of two GPUs."""

    reset: tuple[int, ...] = ()

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def reset_peak_memory_stats(self, device: int) -> None:
        self.reset += (device,)

    def max_memory_allocated(self, device: int) -> int:
        return (0, 3 * MIB)[device]

    def get_device_properties(self, device: int) -> Any:
        return SimpleNamespace(uuid="ab"[device])


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cuda]:
    def use(driver: Any) -> Cuda:
        cuda = Cuda()
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[misc]
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        return cuda

    return use


def measured(meter: Meter, spent: dict[str, Any] | None = None) -> dict[str, Any]:
    meter.begin("evaluate")
    meter.count(spent or {})
    time.sleep(0.2)
    ended = meter.end()
    return ended["usage"]["evaluate"] | {"seconds": ended["timings"]["evaluate"]}


def test_gpu_seconds_and_energy_are_those_of_the_gpus_in_use(gpus: Callable[..., Cuda]) -> None:
    cuda = gpus(Driver())
    found = measured(Meter())
    assert cuda.reset == (0, 1)
    assert (found["gpus"], found["peak_gpu_memory_bytes"]) == (1, 3 * MIB)
    assert found["gpu_seconds"] == found["seconds"]
    assert found["energy_joules"] == pytest.approx(250 * found["seconds"], rel=0.2)
    assert found["reasons"] == {}
    both = measured(Meter(), {"gpus": ["a", "b"], "peak_gpu_memory_bytes": 9 * MIB})
    assert (both["gpus"], both["peak_gpu_memory_bytes"]) == (2, 9 * MIB)
    assert both["gpu_seconds"] == pytest.approx(2 * both["seconds"], abs=0.002)
    assert both["energy_joules"] == pytest.approx(350 * both["seconds"], rel=0.2)
    assert accounting.spent_here(2)["gpus"] == ["a", "b"]


@pytest.mark.parametrize(
    ("driver", "reason"),
    [(None, NOT_INSTALLED), (Driver("init"), "Not Supported"), (Driver("energy"), "Not Supported")],
    ids=["not installed", "no driver", "not reported"],
)
def test_energy_that_is_not_reported_has_a_reason(gpus: Callable[..., Cuda], driver: Any, reason: str) -> None:
    gpus(driver)
    found = measured(Meter())
    assert found["energy_joules"] is None
    assert reason in found["reasons"]["energy_joules"]
    assert found["gpu_seconds"] == found["seconds"]


def test_what_a_server_uses_is_not_guessed(gpus: Callable[..., Cuda]) -> None:
    gpus(Driver())
    found = measured(Meter(server=True))
    assert found["gpu_seconds"] is found["energy_joules"] is None
    assert found["reasons"] == {"gpu_seconds": OF_A_SERVER, "energy_joules": OF_A_SERVER}


# -- summing up ---------------------------------------------------------------------


def attempt(number: int, **values: Any) -> Attempt:
    return Attempt(f"2026-01-0{number}T00:00:00+00:00", "node7", 42, "boot", **values)


def usage(**values: Any) -> dict[str, Any]:
    return {"tokens_read": 10, "gpus": 1, "gpu_seconds": 5.0, "energy_joules": 1800.5, "reasons": {}} | values


ATTEMPTS = (
    attempt(1, timings={"data": 1.5, "train": 100.0}, usage={"train": usage(peak_memory_bytes=7)}),
    attempt(2),
    attempt(
        3,
        timings={"train": 20.25, "evaluate": 3000.0},
        usage={
            "train": usage(peak_memory_bytes=5, peak_gpu_memory_bytes=2),
            "evaluate": usage(tokens_written=400, tokens_taken_back=30, energy_joules=None)
            | {"reasons": {"energy_joules": NOT_INSTALLED}},
        },
    ),
)


def test_attempts_are_summed_and_what_is_missing_is_said() -> None:
    found = total(ATTEMPTS)
    assert (found["attempts"], found["unmeasured"]) == (3, 1)
    assert found["stages"]["train"]["seconds"] == 120.25
    assert found["stages"]["train"]["tokens_read"] == 20
    assert found["stages"]["train"]["peak_memory_bytes"] == 7
    assert found["stages"]["data"]["tokens_read"] is None
    assert found["stages"]["data"]["reasons"]["tokens_read"] == "not measured"
    whole = found["total"]
    assert (whole["seconds"], whole["gpu_seconds"], whole["energy_joules"]) == (3121.75, 15.0, 3601.0)
    assert (whole["tokens_read"], whole["tokens_written"], whole["tokens_taken_back"]) == (30, 400, 30)
    assert (whole["peak_memory_bytes"], whole["peak_gpu_memory_bytes"]) == (7, 2)
    assert whole["reasons"]["energy_joules"] == f"not measured; {NOT_INSTALLED}"
    nothing = total(())
    assert nothing["total"]["seconds"] is None
    assert nothing["attempts"] == 0


@pytest.mark.parametrize("broken", [5, {"tokens_read": "many", "reasons": 3}, {"peak_memory_bytes": None}, {}])
def test_usage_that_is_not_ours_is_not_counted(broken: Any) -> None:
    found = total([attempt(1, timings={"train": 2.0}, usage={"train": broken})])
    assert found["total"]["seconds"] == 2.0
    assert found["total"]["tokens_read"] is None


def test_a_killed_attempt_took_what_its_last_sign_of_life_says() -> None:
    killed = attempt(4)
    beat = {"time": "2026-01-04T01:00:00+00:00", "attempt": killed.started, "timings": {"train": 3600.0}, "usage": {}}
    *others, last = with_heartbeat((*ATTEMPTS, killed), beat, ended=True)
    assert tuple(others) == ATTEMPTS
    assert last == replace(killed, ended="2026-01-04T01:00:00+00:00", timings={"train": 3600.0})
    assert with_heartbeat((killed,), beat, ended=False)[-1].ended is None
    for other in ({}, beat | {"attempt": "another"}, {"attempt": killed.started, "timings": 3, "usage": None}):
        assert with_heartbeat((killed,), other, ended=True) == (killed,)
    ended = replace(killed, ended="2026-01-04T02:00:00+00:00")
    assert with_heartbeat((ended,), beat, ended=True) == (ended,)


# -- shown --------------------------------------------------------------------------


def test_page_show_and_json_say_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lab = make_lab(tmp_path / "outputs")
    change_record(lab / ARMS[2].folder, attempts=ATTEMPTS)
    page = write_page(lab).read_text()
    assert page.count("**Took**") == 1, "only where something was measured"
    assert (
        "- **Took**: 52 min in 3 attempts (1 of them not measured), GPU 15 s, 0.001 kWh of a part (not measured; "
        "nvidia-ml-py is not installed (\\`pip install nvidia-ml-py\\`)), 0 MiB of memory and 0 MiB of a GPU's; "
        "data: 1.5 s; train: 2 min, 20 tokens read, GPU 10 s, 0.001 kWh, 0 MiB of memory and 0 MiB of a GPU's; "
        "evaluate: 50 min, 10 tokens read, 400 written, 30 taken back, GPU 5 s, energy not known (nvidia"
    ) in page
    assert cli.main(["show", "EXP-003"]) == 0
    shown = capsys.readouterr().out
    assert "took       52 min in 3 attempts" in shown
    assert "           train: 2 min, 20 tokens read" in shown
    assert cli.main(["show", "EXP-003", "--json"]) == 0
    took = json.loads(capsys.readouterr().out)["took"]
    assert took == json.loads(json.dumps(total(ATTEMPTS)))
    assert cli.main(["status", "--json"]) == 0
    rows = {row["folder"]: row["took"] for row in json.loads(capsys.readouterr().out)["experiments"]}
    assert rows[ARMS[2].folder] == took
    assert rows[ARMS[-1].folder] is None


def test_a_running_experiment_shows_what_it_took_so_far(tmp_path: Path) -> None:
    folder = make(tmp_path, replace(ARMS[0], status="running"))
    entry = read.entry(tmp_path, ARMS[0].folder)
    assert entry.record is not None
    assert costs.lines(entry) == []
    started = entry.record.attempts[-1].started
    beat = {"attempt": started, "timings": {"evaluate": 7300.0}, "usage": {"evaluate": usage(energy_joules=7.2e6)}}
    write.write_json(folder / layout.HEARTBEAT, beat)
    assert costs.lines(entry) == [
        "2 h 02 min in 1 attempt, GPU 5 s, 2 kWh",
        "evaluate: 2 h 02 min, 10 tokens read, GPU 5 s, 2 kWh",
    ]


# -- a real run ---------------------------------------------------------------------


def test_a_run_counts_its_tokens_and_those_of_the_attempt_that_was_killed(
    tmp_path: Path, tiny_models: Callable[..., Path]
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = [{"question": f"{n} + {n}?", "answer": f"#### {n + n}"} for n in range(4)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "models": {"tiny": {"path": str(tiny_models(tie=False))}},
        "datasets": {"own": {"path": str(tmp_path / "data")}},
        "experiments": [
            {"model": "tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0", "id": "EXP-001",
             "decode": {"max_new_tokens": 6}}
        ],
    }  # fmt: skip
    (tmp_path / "lab.yaml").write_text(json.dumps(document))
    plan = config.load(tmp_path / "lab.yaml", output_dir=tmp_path / "outputs")
    job = Job(plan.experiments[0], plan.output_dir, device="cpu", batch_size=1)
    assert carry_out(job, lambda event: None).status == "completed"
    record = read.record(job.folder)
    assert record is not None
    (first,) = record.attempts
    traces = {trace.key: trace for trace in read.traces(job.folder)}
    prompts = list(read.prompts(job.folder))
    spent = first.usage["evaluate"]
    assert spent["tokens_read"] == sum(len(prompt.ids) for prompt in prompts) > 0
    assert spent["tokens_written"] == sum(trace.counts.sampled for trace in traces.values()) > 0
    assert spent["tokens_taken_back"] == sum(trace.counts.popped for trace in traces.values())
    assert spent["peak_memory_bytes"] > 50 * MIB
    assert first.timings["evaluate"] > 0

    # As a process leaves it that is killed after half of the answers: a record that says running, and a heartbeat.
    killed = replace(first, ended=None, outcome=None, timings={}, usage={})
    write.write_json(
        job.folder / layout.EXPERIMENT, replace(record, status="running", end=None, attempts=(killed,)).to_json()
    )
    half = {"tokens_read": 11, "tokens_written": 12, "tokens_taken_back": 0, "peak_memory_bytes": 2**40, "reasons": {}}
    beat = {"attempt": killed.started, "time": "2026-01-01T00:00:00+00:00", "timings": {"evaluate": 100.5}}
    write.write_json(job.folder / layout.HEARTBEAT, beat | {"usage": {"evaluate": half}})
    lines = (job.folder / layout.TRACES).read_bytes().splitlines(keepends=True)
    (job.folder / layout.TRACES).write_bytes(b"".join(lines[:2]))
    assert carry_out(job, lambda event: None).status == "completed"
    record = read.record(job.folder)
    assert record is not None
    assert [each.outcome for each in record.attempts] == [None, "completed"]
    assert record.attempts[0].ended == "2026-01-01T00:00:00+00:00"
    left = list(read.traces(job.folder))[2:]
    assert len(left) == 2
    whole = total(record.attempts)["total"]
    assert whole["tokens_written"] == 12 + sum(trace.counts.sampled for trace in left)
    assert whole["peak_memory_bytes"] == 2**40
    assert whole["seconds"] > 100.5

    # The same where the next run makes a new result: what the killed one took goes along to superseded/.
    write.write_json(job.folder / layout.EXPERIMENT, replace(record, status="running", attempts=(killed,)).to_json())
    write.write_json(job.folder / layout.HEARTBEAT, beat | {"usage": {"evaluate": half}})
    assert carry_out(replace(job, experiment=replace(job.experiment, seed=7)), lambda event: None).status == "completed"
    earlier = read.record(layout.superseded(job.folder, record.identity))
    assert earlier is not None
    assert total(earlier.attempts)["total"]["seconds"] == 100.5
