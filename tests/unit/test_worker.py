"""What a worker does not begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unsay import config, runner, worker
from unsay.job import Job
from unsay.store import read, stopping


def waiting(folder: Path) -> Job:
    """Return the job of an experiment that is registered and waits for its turn."""
    file = folder / "lab.yaml"
    file.write_text(
        "experiments: [{model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_0, "
        "decode: {max_new_tokens: 4}}]\n"
    )
    plan = config.load(file, output_dir=folder / "outputs")
    (experiment,) = runner.register(plan, plan.experiments)
    return runner.job_of(plan, experiment, runner.Options(device="cpu"))


def test_what_was_cancelled_while_it_waited_does_not_begin(tmp_path: Path) -> None:
    job = waiting(tmp_path)
    assert stopping.close(job.folder, job.folder, "cancelled", stopping.CALLED_OFF, of=("pending",))
    for each in (job, replace(job, limit=2)):
        outcome = worker.carry_out(each, lambda _: None)
        assert (outcome.status, outcome.error) == ("cancelled", stopping.CALLED_OFF)
    record = read.record(job.folder)
    assert record is not None
    assert (record.status, record.attempts) == ("cancelled", ())


def test_what_was_cancelled_before_it_was_asked_for_goes_on(tmp_path: Path) -> None:
    first = waiting(tmp_path)
    stopping.close(first.folder, first.folder, "cancelled", stopping.CALLED_OFF, of=("pending",))
    plan = config.load(tmp_path / "lab.yaml", output_dir=tmp_path / "outputs")
    again = runner.job_of(plan, first.experiment, runner.Options(device="cpu", limit=1))
    assert Job.from_json(again.to_json()).called_off
    assert worker.carry_out(again, lambda _: None).status == "completed"
