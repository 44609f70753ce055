"""Experiments on a real Ray cluster, a node of which loses its power; and what is told before anything runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import crash
from tests.ray_cluster import Cluster
from unsay.datasets import wordproblems
from unsay.records import ExperimentRecord
from unsay.store import layout, read

pytest.importorskip("ray")

PATIENCE = 300.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give a cluster with a node of two processors, and a head that runs nothing."""
    with Cluster() as made:
        made.add(num_cpus=2)
        yield made


def make(folder: Path, *lengths: int, items: int = 6, **settings: Any) -> Path:
    """Write a lab whose experiments differ in how long their answers may be; an id says how long."""
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = wordproblems.generate(split, items)
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"model": "unsay-tiny", "dataset": "own", "method": "vanilla", "config": "fewshot_0"}
    document = {
        "datasets": {"own": {"path": "./data"}},
        "experiments": [base | {"id": f"E{n}", "decode": {"max_new_tokens": n}} | settings for n in lengths],
    }
    (folder / "lab.yaml").write_text(json.dumps(document))
    return folder


def start(lab: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a run in a lab's folder; what it says goes to output.txt there."""
    with (lab / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "unsay", "run", "lab.yaml", "--device", "cpu", "--batch-size", "1", *arguments],
            cwd=lab,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_heed_ctrl_c,
        )


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a background job of a shell ignores


def on(cluster: Cluster, lab: Path, *arguments: str) -> subprocess.Popen[bytes]:
    where = ("--executor", "ray", "--option", f"address={cluster.address}")
    return start(lab, *where, *arguments, environment=cluster.environment)


def ended(run: subprocess.Popen[bytes]) -> int:
    return run.wait(PATIENCE)


def said(lab: Path) -> str:
    return (lab / "output.txt").read_text()


def until(condition: Callable[[], object], run: subprocess.Popen[bytes], lab: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert run.poll() is None, said(lab)
        assert time.monotonic() < deadline, said(lab)
        time.sleep(0.02)


def records(lab: Path) -> dict[str, tuple[Path, ExperimentRecord]]:
    found = {entry.name: (entry.folder, entry.record) for entry in read.find(lab / "outputs")}
    return {name: (folder, record) for name, (folder, record) in found.items() if record is not None}


def answered(lab: Path, id: str) -> int:
    folder = records(lab)[id][0] if id in records(lab) else None
    return 0 if folder is None else len(crash.complete_lines(folder / layout.TRACES).splitlines())


def in_parts(lab: Path, id: str) -> int:
    folder = records(lab)[id][0] if id in records(lab) else lab
    parts = (folder / layout.SHARDS).glob(f"*/{layout.TRACES}")
    return sum(len(crash.complete_lines(part).splitlines()) for part in parts)


def assert_equal_to_inline(lab: Path, tmp: Path, items: int) -> None:
    """Every item once, and every number as where one process did it all."""
    other = tmp / "inline"
    other.mkdir()
    for name in ("lab.yaml", "data"):
        (other / name).symlink_to(lab / name)
    run = start(other, "--executor", "inline")
    assert ended(run) == 0, said(other)
    for folder, _ in records(lab).values():
        keys = Counter(trace.key for trace in read.traces(folder))
        assert (len(keys), set(keys.values())) == (items, {1})
    assert crash.results(lab) == crash.results(other)


@pytest.mark.slow
def test_one_evaluation_in_shards_and_a_helper_that_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    lab = make(tmp_path / "lab", 60, items=40)
    run = on(cluster, lab, "--option", "shards=2")
    helpers: list[psutil.Process] = []

    def helping() -> bool:
        helpers[:] = [each for each in psutil.process_iter(["cmdline"]) if _helps(each, lab)]
        return bool(helpers) and in_parts(lab, "E60") >= 4

    until(helping, run, lab)
    helpers[0].kill()
    assert ended(run) == 0, said(lab)
    assert "evaluate 40/40 answers" in said(lab)
    ((_, record),) = records(lab).values()
    assert [attempt.outcome for attempt in record.attempts] == ["completed"]
    assert record.attempts[0].hardware["executor"] == "ray"
    assert_equal_to_inline(lab, tmp_path, 40)


def _helps(process: psutil.Process, lab: Path) -> bool:
    arguments = process.info["cmdline"] or []
    return "unsay.shard" in arguments and any(str(lab) in each for each in arguments)


def test_a_cluster_of_this_machine_alone_listens_to_nobody_else() -> None:
    program = """
import ipaddress, psutil
from unsay.executors import ray
ray._connect(ray.Ray())
for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
    for connection in process.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            address = ipaddress.ip_address(connection.laddr.ip)
            print((getattr(address, "ipv4_mapped", None) or address).is_loopback)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert set(done.stdout.split()) == {"True"}


@pytest.mark.slow
def test_a_node_that_dies_costs_nothing(tmp_path: Path) -> None:
    lengths = tuple(range(10, 22))
    lab = make(tmp_path / "lab", *lengths, items=12)
    with Cluster() as cluster:
        lost, kept = cluster.add(), cluster.add()
        run = on(cluster, lab)

        def midway() -> bool:
            done = sum(record.status == "completed" for _, record in records(lab).values())
            at = {int(each.pid) for each in cluster.workers(lost)}
            half = [
                id for id, (_, record) in records(lab).items()
                if record.status == "running" and record.attempts[-1].pid in at and answered(lab, id) >= 2
            ]  # fmt: skip
            return done >= 3 and bool(half)

        until(midway, run, lab)
        cluster.kill(lost)
        assert ended(run) == 0, said(lab)
        assert kept.poll() is None
    found = records(lab)
    assert len(found) == len(lengths)
    outcomes = [[attempt.outcome for attempt in record.attempts] for _, record in found.values()]
    assert sorted(outcomes, key=len)[-1] == [None, "completed"], "one was gone on with"
    assert_equal_to_inline(lab, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_or_cancelled_leaves_what_can_go_on(
    cluster: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    lengths = ("E100", "E99", "E98")
    lab = make(tmp_path / "lab", 100, 99, 98, items=120)
    run = on(cluster, lab)
    until(lambda: sum(answered(lab, id) >= 2 for id in lengths) == 2, run, lab)
    # One waits in the cluster, which begins in any order: nobody is at it yet.
    (waits,) = (id for id in lengths if not records(lab)[id][1].attempts)
    kept_on, called_off = (id for id in lengths if id != waits)
    cancel = [sys.executable, "-m", "unsay", "cancel", called_off, waits, "-o", str(lab / "outputs"), "--json"]
    done = json.loads(subprocess.run(cancel, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout)
    assert {each["id"]: each["did"] for each in done["experiments"]} == {called_off: "cancelled", waits: "cancelled"}
    until(lambda: f"{waits} cancelled" in " ".join(said(lab).split()), run, lab)
    os.kill(run.pid, how)
    assert ended(run) == 1, said(lab)
    status = {id: record.status for id, (_, record) in records(lab).items()}
    assert set(status.values()) == {"cancelled"}, said(lab)
    assert records(lab)[waits][1].attempts == ()
    workers = [each for each in psutil.process_iter(["cmdline"]) if str(lab) in " ".join(each.info["cmdline"] or [])]
    assert workers == []
    assert "Traceback" not in said(lab)
    kept = answered(lab, kept_on)
    assert kept >= 2
    assert ended(on(cluster, lab, "--batch-size", "32")) == 0, said(lab)
    outcomes = [attempt.outcome for attempt in records(lab)[kept_on][1].attempts]
    assert outcomes == ["cancelled", "completed"]
    keys = Counter(trace.key for trace in read.traces(records(lab)[kept_on][0]))
    assert (len(keys), set(keys.values())) == (120, {1})


# -- told before anything is submitted ----------------------------------------------------------------------------


def refused(lab: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Return what a run says that must not begin."""
    began = time.monotonic()
    run = start(lab, "--executor", "ray", *arguments, environment=environment)
    assert ended(run) == 1, said(lab)
    assert time.monotonic() - began < 60
    assert not (lab / "outputs").exists(), "nothing was written"
    text = " ".join(said(lab).split())
    assert "Traceback" not in text
    return text


def test_what_no_node_has_is_told_first(cluster: Cluster, tmp_path: Path) -> None:
    lab = make(tmp_path / "lab", 8)
    where = ("--option", f"address={cluster.address}")
    text = refused(lab, *where, "--option", "num_gpus=2", "--option", "num_cpus=64", environment=cluster.environment)
    assert "num_gpus: expected a node with at least 2, got 0 on the largest of the 2 node(s)" in text
    assert "num_cpus: expected a node with at least 64, got 2 on the largest" in text


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    lab = make(tmp_path / "lab", 8)
    assert "expected a Ray cluster at 127.0.0.1:9, got Connection refused" in refused(
        lab, "--option", "address=127.0.0.1:9"
    )
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        text = refused(lab, "--option", f"address={place}", "--option", "timeout=8")
        assert f"expected a Ray cluster at {place}, got" in text
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may hide a folder")
def test_an_output_folder_that_a_node_does_not_see_is_told_first_or_done_without(tmp_path: Path) -> None:
    """One node sees another file system where the lab is; files come back through Ray when that is asked for."""
    lab = make(tmp_path / "lab", 30, 31, items=8)
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(lab))
    data = tmp_path / "data"
    (lab / "data").rename(data)
    (lab / "data").symlink_to(data)
    (lab / "lab.yaml").write_text((lab / "lab.yaml").read_text().replace("./data", str(data)))
    with Cluster() as cluster:
        cluster.add(prefix=hide)
        where = ("--option", f"address={cluster.address}")
        text = refused(lab, *where, environment=cluster.environment)
        assert f"expected to read and write the output folder {lab / 'outputs'} there, got: No such file" in text
        assert "results=store" in text
        run = on(cluster, lab, "--option", "results=store")
        until(lambda: answered(lab, "E30") >= 2, run, lab)
        assert ended(run) == 0, said(lab)
    assert_equal_to_inline(lab, tmp_path, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["address=ray://head:10001"], "Ray's client connections pass no events on"),
        (["address=head"], "expected local, auto or host:port, got 'head'"),
        (["shards=0", "max_retries=-1"], "shards: expected at least 1, got 0"),
        (["results=store", "shards=2"], "the parts of one evaluation need a folder that all nodes see"),
        (["resources={a100: many}"], "resources: expected a number for each"),
        (["num_gpu=1"], "num_gpus"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from unsay import cli

    lab = make(tmp_path / "lab", 8)
    arguments = [part for option in options for part in ("--option", option)]
    assert cli.main(["run", str(lab / "lab.yaml"), "--executor", "ray", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_its_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unsay import cli

    lab = make(tmp_path / "lab", 8)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["run", str(lab / "lab.yaml"), "--executor", "ray"]) == 1
    assert "pip install 'unsay[ray]'" in capsys.readouterr().err
