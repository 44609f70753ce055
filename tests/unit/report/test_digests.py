"""Hashes of results: the same for the same answers and weights however they lie on disk, another for another token."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.unit.lab import Arm, make
from unsay import cli
from unsay.errors import StoreError
from unsay.report import digests
from unsay.store import layout, read, write

SFT = Arm("SFT", method="sft", config="sft", seed=1, seeded=True)


def save(file: Path, tensors: dict[str, np.ndarray], *, order: list[str], metadata: str = "pt") -> None:
    """Write safetensors with its tensors in this order, as the format says."""
    header: dict[str, object] = {"__metadata__": {"format": metadata}}
    content = b""
    for name in order:
        data = tensors[name].tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    written = json.dumps(header).encode()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(len(written).to_bytes(8, "little") + written + content)


TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float32)}


def test_answers_hash_alike_in_any_order_and_differ_by_one_token(tmp_path: Path) -> None:
    folder = make(tmp_path, SFT)
    before = digests.answers(folder)
    file = folder / layout.TRACES
    lines = file.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    write.write_bytes(file, b"".join(lines))
    assert digests.answers(folder) == before
    first = next(iter(read.traces(folder))).to_json()
    first["ids"][0] += 1
    file.unlink()
    with write.Journal(file) as journal:
        for line in lines[1:]:
            journal.append({key: value for key, value in json.loads(line).items() if key != "crc32"})
        journal.append(first)
    assert digests.answers(folder) not in (before, None)


def test_weights_hash_alike_in_any_layout_and_differ_by_one_value(tmp_path: Path) -> None:
    place = tmp_path / "train" / digests.ADAPTER
    save(place, TENSORS, order=["a", "b"])
    before = digests.weights(place.parent)
    save(place, TENSORS, order=["b", "a"], metadata="other")
    assert digests.weights(place.parent) == before
    save(place, TENSORS | {"b": np.array([1, 1, 1, 1.0000001], dtype=np.float32)}, order=["a", "b"])
    assert digests.weights(place.parent) != before
    save(place, TENSORS | {"a": TENSORS["a"].reshape(3, 2)}, order=["a", "b"])
    assert digests.weights(place.parent) != before
    assert digests.weights(tmp_path / "nothing") is None


def test_a_model_in_several_files_hashes_as_in_one(tmp_path: Path) -> None:
    save(tmp_path / "one" / "model.safetensors", TENSORS, order=["a", "b"])
    for at, name in enumerate("ab"):
        save(tmp_path / "two" / f"model-0000{at + 1}-of-00002.safetensors", TENSORS, order=[name])
    assert digests.weights(tmp_path / "one") == digests.weights(tmp_path / "two")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 20, (99).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"]
)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / digests.ADAPTER).write_bytes(content)
    with pytest.raises(StoreError, match=digests.ADAPTER):
        digests.weights(tmp_path)


def test_the_command_prints_a_line_for_each_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, SFT)
    save(folder / layout.TRAIN / digests.ADAPTER, TENSORS, order=["a", "b"])
    make(tmp_path, Arm("VAN"))
    assert cli.main(["report", "--output-dir", str(tmp_path), "--hashes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [SFT.folder, Arm("VAN").folder]
    assert lines[0].endswith(f"weights={(digests.weights(folder / layout.TRAIN) or '')[:32]}")
    assert lines[1].endswith("weights=-")
    (folder / layout.TRAIN / digests.ADAPTER).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert digests.digests(read.entry(tmp_path, SFT.folder)).text.endswith("weights=unreadable")
    save(folder / layout.TRAIN / digests.ADAPTER, TENSORS, order=["a", "b"])
    assert cli.main(["report", "--output-dir", str(tmp_path), "--hashes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hashes"][1]["weights"] is None
    assert cli.main(["report", "--output-dir", str(tmp_path), "--hashes", "--html", "x.html"]) == 2
