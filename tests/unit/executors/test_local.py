"""What the executor of this machine refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unsay import config, runner
from unsay.errors import ConfigError
from unsay.executors.local import Local


@pytest.mark.parametrize("option", ["at_once", "shards"])
def test_nothing_is_done_by_nobody(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: expected at least 1, got 0"):
        Local(**{option: 0})


def test_trainings_of_several_processes_come_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("experiments: [{model: unsay-tiny, dataset: wordproblems, method: sft, config: lora/train}]\n")
    plan = config.load(file, output_dir=tmp_path / "outputs")
    alone = runner.job_of(plan, plan.experiments[0], runner.Options())
    group = replace(alone, processes={"num_processes": 4})
    assert Local(at_once=2).check([alone]) == Local().check([group]) == []
    (said,) = Local(at_once=2).check([alone, group])
    assert "takes 4 processes" in said
    assert "leave out --processes" in said
