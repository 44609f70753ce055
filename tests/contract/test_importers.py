"""What every file of `unsay.importers` promises, run against each file found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.importers import foreign
from unsay import catalog
from unsay.importers import File, Importer, Options

FILES = catalog.names("importers")
KINDS = ("results_x.json", "samples_x.jsonl", "generated_predictions.jsonl", "trainer_log.jsonl", "x.yaml", "x.json")


@pytest.fixture(params=FILES)
def importer(request: pytest.FixtureRequest) -> Importer:
    made: Importer = catalog.plugin("importers", request.param)()
    return made


def test_files_were_found() -> None:
    assert set(FILES) >= {"generations", "llamafactory", "lm_eval", "solutions"}
    assert all(catalog.summary("importers", name).endswith(".") for name in FILES)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b'{"results": []}', b"[" * 5000, b'{"doc_id": 1}'])
def test_no_content_makes_it_raise(importer: Importer, content: bytes, tmp_path: Path) -> None:
    files = [File(tmp_path / name) for name in KINDS]
    for file in files:
        file.path.write_bytes(content)
    found, refused = importer.find(files, Options())
    assert {each.path for each in refused} <= {file.path for file in files}
    assert all(each.reason for each in refused)
    for each in found:  # an adapter or log of nothing is no experiment with answers
        assert each.files


def test_files_that_are_gone_make_no_importer_raise(importer: Importer, tmp_path: Path) -> None:
    found, _ = importer.find([File(tmp_path / name) for name in KINDS], Options())
    assert found == []


def test_a_file_has_one_reader(tmp_path: Path) -> None:
    """No two importers make experiments with answers of one file."""
    foreign.write_run(tmp_path / "lm_eval")
    foreign.write_lines(tmp_path / "lf" / "generated_predictions.jsonl", foreign.predictions())
    solution = {"question": "What is 1 + 1?", "ground_truth": "A: 2", "big": {"solution": "A: 2", "is_correct": True}}
    foreign.write_lines(tmp_path / "several" / "solutions.jsonl", [solution])
    generated = {"samples": [{"question": "1 + 1?", "gold_answer": "2", "generated_text": "2", "correct": True}]}
    (tmp_path / "document").mkdir()
    (tmp_path / "document" / "eval.json").write_text(json.dumps(generated))
    files = [File(path) for path in sorted(tmp_path.rglob("*.json*"))]
    assert len(files) == 5
    readers: dict[Path, list[str]] = {}
    for name in FILES:
        found, refused = catalog.plugin("importers", name)().find(files, Options())
        assert refused == []
        for each in found:
            readers.setdefault(each.files[0], []).append(name)
            assert each.items is not None
            assert len(list(each.items())) == len(list(each.items())) == each.expected
    assert sorted(map(tuple, readers.values())) == [("generations",), ("llamafactory",), ("lm_eval",), ("solutions",)]
