"""Files of a lab that two machines do not share: what goes, what comes back, and in what order."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsay import config, runner
from unsay.errors import LockedError, StoreError
from unsay.executors._ray_node import Mirror, Scratch, look
from unsay.job import Job
from unsay.store import layout, write

FILE = """
experiments:
  - {id: A, model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_0}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "lab.yaml").write_text(FILE)
    plan = config.load(tmp_path / "lab.yaml", output_dir=tmp_path / "outputs")
    made = runner.job_of(plan, plan.experiments[0], runner.Options(limit=5))
    (made.result_folder / "logs").mkdir(parents=True)
    (made.result_folder / layout.TRACES).write_bytes(b"one\n")
    (made.folder / "limit_9").mkdir()
    for left in ("logs/old.log", f"limit_9/{layout.TRACES}", f"{layout.SUPERSEDED}/x"):
        (made.folder / left).parent.mkdir(exist_ok=True)
        (made.folder / left).write_text("stays")
    return made


def test_what_a_worker_writes_comes_back_piece_by_piece(job: Job) -> None:
    with Mirror(job) as mirror:
        files = dict(mirror.files())
        name = f"{job.experiment.folder}/limit_5"
        assert list(files) == [f"{name}/{layout.TRACES}"]
        with Scratch(list(files), [path.read_bytes() for path in files.values()]) as scratch:
            there = scratch.folder / name
            assert scratch.changes() == ([], [])
            # A journal grows, a folder appears as a whole, and what is being written is not there.
            with (there / layout.TRACES).open("ab") as file:
                file.write(b"two\n")
            write.write_json(there / layout.HEARTBEAT, {"done": 1})
            with write.completing(there / "train" / "checkpoint-1") as folder:
                (folder / "a").write_bytes(b"weights")
                (folder / "b").write_bytes(b"state")
                assert [each[0] for each in scratch.changes()[0]] == [
                    f"{name}/{layout.TRACES}",
                    f"{name}/{layout.HEARTBEAT}",
                ]
            with (there / layout.TRACES).open("ab") as file:
                file.write(b"three\n")
            changed, gone = scratch.changes()
            assert sorted((each.removeprefix(f"{name}/"), begin, data) for each, begin, data in changed) == [
                ("traces.jsonl", 8, b"three\n"),
                ("train/checkpoint-1/a", 0, b"weights"),
                ("train/checkpoint-1/b", 0, b"state"),
            ]
            assert gone == []
            with pytest.raises(FileNotFoundError):  # what came before was not passed on: nothing is made up
                Mirror(job).write([(f"{name}/none.jsonl", 8, b"three\n")], [])
            mirror.write([(f"{name}/{layout.TRACES}", 4, b"two\n"), *changed], [])
            assert (job.result_folder / layout.TRACES).read_bytes() == b"one\ntwo\nthree\n"
            assert (job.result_folder / "train" / "checkpoint-1" / "b").read_bytes() == b"state"
            (there / layout.HEARTBEAT).unlink()
            write.write_bytes(there / layout.TRACES, b"another file, longer than before\n")
            mirror.write(*scratch.changes())
            assert (job.result_folder / layout.TRACES).read_bytes() == b"another file, longer than before\n"
            assert not (job.result_folder / layout.HEARTBEAT).exists()
        assert not scratch.folder.exists()
    assert [path.name for path in job.result_folder.rglob(f"{layout.TEMPORARY_PREFIX}*")] == []
    assert (job.folder / "logs" / "old.log").read_text() == "stays"


def test_a_worker_writes_into_its_experiment_only_and_nobody_else_meanwhile(job: Job) -> None:
    with Mirror(job) as mirror:
        for name in ("../lab.yaml", f"{job.experiment.folder}/../../x", "other/experiment.json"):
            with pytest.raises(StoreError, match="expected files of"):
                mirror.write([(name, 0, b"")], [])
        with pytest.raises(LockedError), Mirror(job):
            pass
    assert not (job.output_dir / "other").exists()


def test_what_a_node_does_not_see(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_text("probe")
    assert look([str(probe)], [str(tmp_path)]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]
    missing, nothing = look([str(tmp_path / "not" / "probe")], [str(tmp_path / "model")])
    assert f"the output folder {tmp_path / 'not'} there, got: No such file" in missing
    assert f"expected {tmp_path / 'model'} there, got nothing" in nothing
    probe.write_text("of somebody else")
    (other,) = look([str(probe)], [])
    assert "got: another folder of that name" in other
