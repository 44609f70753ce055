"""What the executor of this machine refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unsay import config, cores, runner
from unsay.errors import ConfigError
from unsay.evaluate.shards import computing_with
from unsay.executors.local import Local
from unsay.job import Job


@pytest.mark.parametrize("option", ["at_once", "shards"])
def test_nothing_is_done_by_nobody(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: expected at least 1, got 0"):
        Local(**{option: 0})


def job(folder: Path) -> Job:
    file = folder / "lab.yaml"
    file.write_text("experiments: [{model: unsay-tiny, dataset: wordproblems, method: sft, config: lora/train}]\n")
    plan = config.load(file, output_dir=folder / "outputs")
    return runner.job_of(plan, plan.experiments[0], runner.Options())


@pytest.mark.parametrize(("at_once", "shards", "threads"), [(4, 1, None), (1, 2, 4), (2, 2, 2), (1, 9, 1)])
def test_who_makes_the_parts_computes_like_who_helps(
    at_once: int, shards: int, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cores.OMP_NUM_THREADS, "8")
    divided = Local(at_once=at_once, shards=shards).divided(job(tmp_path))
    assert (divided.shards, divided.threads) == (shards, threads)
    before = torch.get_num_threads()
    with computing_with(divided.threads):
        assert torch.get_num_threads() == (threads or before)
    assert torch.get_num_threads() == before


def test_trainings_of_several_processes_come_one_at_a_time(tmp_path: Path) -> None:
    alone = job(tmp_path)
    group = replace(alone, processes={"num_processes": 4})
    assert Local(at_once=2).check([alone]) == Local().check([group]) == []
    (said,) = Local(at_once=2).check([alone, group])
    assert "takes 4 processes" in said
    assert "leave out --processes" in said
