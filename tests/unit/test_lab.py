"""A lab from Python: what is on disk as objects, samples in order, frames where pandas is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas
import pytest

import unsay
from tests.unit.lab import ARMS, ITEMS, Arm, change_record, make, make_lab, make_traces
from unsay.errors import StoreError, UnsayError
from unsay.store import archive, layout, read, write


@pytest.fixture
def lab(tmp_path: Path) -> unsay.Lab:
    return unsay.Lab(make_lab(tmp_path / "outputs"))


def test_experiments_are_those_of_the_page_in_its_order(lab: unsay.Lab) -> None:
    found = lab.experiments()
    assert [(one.name, one.limit) for one in found] == [(each.name, each.limit) for each in read.find(lab.path)]
    assert [one.name for one in lab] == [one.name for one in found]
    first = found[0]
    assert (first.id, first.model, first.dataset, first.method, first.config, first.seed) == (
        "EXP-001", "qwen3-4b", "gsm8k", "vanilla", "fewshot_8", 0
    )  # fmt: skip
    assert first.record == read.record(first.folder)
    assert first.metrics == read.metrics(first.folder)
    assert first.took is not None
    assert first.took["attempts"] == 1
    assert "EXP-001, completed: qwen3-4b on gsm8k" in repr(first)


def test_it_is_always_what_is_on_disk_now(lab: unsay.Lab) -> None:
    assert [one.status for one in lab.experiments(search="EXP-010")] == ["failed"]
    change_record(lab.path / ARMS[5].folder, status="cancelled")
    make(lab.path, Arm("EXP-050", model="another"))
    assert [one.status for one in lab.experiments(search="EXP-010")] == ["cancelled"]
    assert lab.experiment("EXP-050").model == "another"


def test_filters_take_a_name_or_several(lab: unsay.Lab) -> None:
    def names(**wanted: object) -> list[str]:
        return [one.name for one in lab.experiments(**wanted)]  # type: ignore[arg-type]

    assert names(model="qwen3-0*") == ["EXP-002"]
    assert names(method=["vanilla", "sft"], status=("failed", "pending")) == ["EXP-010", ARMS[-1].folder]
    assert names(config="lora/train_bt") == ["EXP-004", "EXP-004"]
    archive.archive(lab.path / ARMS[0].folder)
    assert names(method="vanilla") == ["EXP-002"]
    assert names(archived=True) == ["EXP-001"]
    assert names(method="vanilla", archived=None) == ["EXP-001", "EXP-002"]
    assert lab.experiment("EXP-001").archived


def test_samples_are_in_order_with_scores_and_what_happened(lab: unsay.Lab) -> None:
    samples = list(lab.experiment("EXP-004").samples())
    assert [sample.item for sample in samples] == [str(item) for item in range(ITEMS)]
    first, second, third = samples[:3]
    assert (first.prompt, first.label) == ("Question 0?", "So it is 0.\n#### 0")
    assert first.predict in (first.label, "#### no")
    assert first.scores["exact_match_strict"] == (100.0 if first.predict == first.label else 0.0)
    assert (first.finish_reason, first.counts is not None and first.counts.popped) == ("eos", 1)
    assert (second.counts is not None and second.counts.popped) == 0
    assert (third.finish_reason, third.counts) == (None, None), "the fabricated lab has two traces only"
    assert next(lab.experiment("EXP-004").traces()).ids == (5, 9, 4, 2)


def test_samples_of_a_running_experiment_are_those_that_are_answered(lab: unsay.Lab) -> None:
    folder = make(lab.path, Arm("EXP-020", config="fewshot_1", status="running"))
    make_traces(folder)
    with (folder / layout.TRACES).open("rb+") as file:
        lines = file.readlines()
        file.seek(0)
        file.truncate()
        file.write(lines[1] + lines[0][:50])  # one is finished, another is being written
    (sample,) = lab.experiment("EXP-020").samples()
    assert (sample.item, sample.prompt, sample.label, sample.scores) == ("1", "Question 1?", None, {})
    assert sample.finish_reason == "eos"
    assert list(lab.experiment(ARMS[-1].folder).samples()) == []


def test_frames(lab: unsay.Lab) -> None:
    one = lab.experiment("EXP-004")
    frame = one.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == ITEMS
    assert {"item", "prompt", "label", "predict", "finish_reason", "popped", "exact_match_strict"} <= set(frame.columns)
    assert "scores" not in frame.columns
    assert frame["exact_match_strict"].mean() == pytest.approx(one.metrics["exact_match_strict"].value)
    assert frame["popped"].dropna().tolist() == [1, 0]
    table = lab.frame(status="completed")
    assert table["id"].tolist() == ["EXP-001", "EXP-002", "EXP-003", "EXP-004", "EXP-004"]
    assert table["exact_match_strict"].tolist()[0] == pytest.approx(83.5)
    assert lab.frame(model="none").empty


def test_without_pandas_it_says_what_to_install(lab: unsay.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame in (lab.frame, lab.experiment("EXP-004").frame):
        with pytest.raises(UnsayError, match="pip install pandas"):
            frame()


def test_what_cannot_be_read_says_so(lab: unsay.Lab) -> None:
    write.write_text(lab.path / "broken" / layout.EXPERIMENT, "{")
    broken = lab.experiment("broken")
    assert (broken.status, broken.metrics, broken.took, list(broken.samples())) == ("unreadable", {}, None, [])
    with pytest.raises(StoreError, match="is not JSON"):
        _ = broken.record
    with pytest.raises(StoreError, match="Did you mean EXP-004"):
        lab.experiment("EXP-0004")
    with pytest.raises(StoreError, match="unsay run FILE"):
        unsay.Lab(lab.path / "nowhere")


def test_it_works_without_what_computes(lab: unsay.Lab) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'pandas', 'lm_eval']))\n"
        f"import unsay; one = unsay.Lab({str(lab.path)!r}).experiment('EXP-004')\n"
        "print(len(list(one.samples())), round(one.metrics['bleu4_lf'].value, 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(ITEMS), "34.08"], done.stderr
