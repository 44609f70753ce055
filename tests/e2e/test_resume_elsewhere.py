"""Gone on with otherwise than begun, by threads and by answers or rows at a time: it is said, and counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import crash
from unsay.records import ExperimentRecord
from unsay.store import layout, read, write


def two_threads() -> None:
    torch.set_num_threads(2)


def record_of(lab: Path, id: str) -> ExperimentRecord:
    record = read.record(crash.folders(lab)[id])
    assert record is not None
    return record


def test_answers_that_were_generated_otherwise_are_counted(nursery: crash.Nursery, tmp_path: Path) -> None:
    lab = crash.make_lab(tmp_path / "lab", experiments=1)
    process = nursery.start(lab, *crash.run_arguments())
    traces = lab / "outputs" / "unsay-tiny" / "own" / "vanilla" / "lm_eval" / "fewshot_8+new16" / layout.TRACES
    assert crash.wait_for(lambda: crash.complete_lines(traces).count(b"\n") >= 3, process)
    crash.kill(process)
    earlier = crash.complete_lines(traces)
    first = earlier.count(b"\n")
    assert first < crash.ITEMS

    arguments = [argument if argument != str(crash.SLOTS) else "3" for argument in crash.run_arguments()]
    process = nursery.start(lab, *arguments, inside=two_threads)
    process.join()
    assert process.exitcode == 0, (lab / "output.txt").read_text()[-2000:]
    assert traces.read_bytes().startswith(earlier)
    record = record_of(lab, "EXP-001")
    changes = record.facts["engine_changes"]
    assert changes["answers"] == [
        {"answers": first, "threads": 1, "batch_size": 2},
        {"answers": crash.ITEMS - first, "threads": 2, "batch_size": 3},
    ]
    assert changes["generated_again"] == {"items": first, "differ": []}
    assert record.warnings[-1] == (
        f"the answers were not all generated alike: {first} with threads 1, batch_size 2; {crash.ITEMS - first} with "
        f"threads 2, batch_size 3; of {first} earlier ones generated once more, 0 came out differently"
    )
    assert record.facts["engine"]["threads"] == 2

    # Killed while it scored: there is nothing left to generate, and what generated the answers is known still.
    folder = traces.parent
    write.write_json(folder / layout.EXPERIMENT, replace(record, status="running", facts={}).to_json())
    process = nursery.start(lab, *crash.run_arguments())
    process.join()
    assert process.exitcode == 0, (lab / "output.txt").read_text()[-2000:]
    again = record_of(lab, "EXP-001")
    assert len(again.attempts) == 3
    assert again.facts == record.facts
    assert again.warnings == record.warnings


def test_a_training_goes_on_with_other_micro_batches(nursery: crash.Nursery, tmp_path: Path) -> None:
    whole, lab = (crash.make_lab(tmp_path / name, experiments=2) for name in ("whole", "lab"))
    folder = lab / "outputs" / "unsay-tiny" / "own" / "sft" / "lora" / "train"
    log = layout.train(folder) / layout.TRAINER_LOG
    process = nursery.start(lab, *crash.run_arguments(), "EXP-002")
    assert crash.wait_for(lambda: crash.complete_lines(log).count(b"\n") >= 3, process)
    crash.kill(process)

    document = json.loads((lab / "lab.yaml").read_text())
    document["configs"]["lora/train"] |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    (lab / "lab.yaml").write_text(json.dumps(document))
    for place, inside in ((lab, two_threads), (whole, None)):
        process = nursery.start(place, *crash.run_arguments(), "EXP-002", inside=inside)
        process.join()
        assert process.exitcode == 0, (place / "output.txt").read_text()[-2000:]
    assert not (folder / layout.SUPERSEDED).exists()
    curves = []
    for place in (lab, whole):
        train = layout.train(crash.folders(place)["EXP-002"])
        curves.append([json.loads(line)["loss"] for line in (train / layout.TRAINER_LOG).read_text().splitlines()])
    assert len(curves[0]) == crash.STEPS
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    training = record_of(lab, "EXP-002").facts["training"]
    assert training["resumed_from"] >= 2
    assert (training["micro_batch"], training["gradient_accumulation"]) == (2, 2)
    assert training["changes"] == [{"step": training["resumed_from"], "micro_batch": [4, 2], "threads": [1, 2]}]
    assert record_of(lab, "EXP-002").warnings[-1] == (
        f"training went on from step {training['resumed_from']} with micro_batch 2 instead of 4, threads 2 instead of 1"
    )
