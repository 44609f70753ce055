"""`unsay status` in a large lab, and `unsay archive`: what is shown, what is left out, and that it says so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab import ARMS, Arm, change_record, make, make_lab
from unsay import cli
from unsay.cli.status import _AROUND, FIRST
from unsay.store import claims, layout, read, write

ROOT = Path(__file__).parents[3]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_lab(tmp_path / "outputs")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Return the ids (or folders) that a status shows."""
    assert cli.main(["status", *arguments, "--json"]) == 0
    return [one["id"] or one["folder"] for one in json.loads(capsys.readouterr().out)["experiments"]]


def ids(text: str) -> list[str]:
    return re.findall(r"^(?:EXP|RUN|MANY)-\d+", text, re.MULTILINE)


def many(lab: Path, count: int) -> None:
    for number in range(count):
        folder = make(lab, Arm(f"MANY-{number}", config=f"fewshot_{number + 10}", status="failed"))
        change_record(folder, start=None, end=f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00", attempts=())


# -- status -------------------------------------------------------------------------


def test_the_first_screen_has_what_changed_last_and_says_what_it_leaves_out(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many(lab, 80)
    make(lab, Arm("RUN-1", config="fewshot_1", status="running"))
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    newest = [f"MANY-{number}" for number in range(80 - FIRST + 1, 80)]
    assert ids(out) == [*newest, "RUN-1"]  # what runs is always there
    last = " ".join(out.split("\n\n")[-1].split())
    assert last.startswith(
        f"These are the {FIRST} that changed last, of 88 (81 failed, 5 completed, 1 pending, 1 running)."
    )
    assert "--all" in last
    assert cli.main(["status", "--all"]) == 0
    out = capsys.readouterr().out
    assert len(ids(out)) == 80 + 1 + len(ARMS) - 1
    assert "These are" not in out
    assert len(shown(capsys)) == 80 + 1 + len(ARMS)


def test_watching_shows_what_fits(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    many(lab, 60)
    monkeypatch.setattr("unsay.cli.status.time.sleep", interrupt)
    assert cli.main(["status", "--watch"]) == 130
    assert len(ids(capsys.readouterr().out)) == FIRST
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("LINES", "20")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["status", "--watch"]) == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert len(set(ids(shown.replace("\r", "\n")))) == 20 - _AROUND  # Live writes it again at its end
    assert "These are the 14 that changed last, of 67" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--model", "qwen3-0*"], ["EXP-002"]),
        (["--model", "qwen3-0.6b", "--model", "QWEN3-4B", "--method", "vanilla"], ["EXP-001", "EXP-002"]),
        (["--dataset", "gsm8k", "--status", "failed", "--status", "pending"], ["EXP-010", ARMS[-1].folder]),
        (["--config", "lora/train*", "--search", "backtrack"], ["EXP-004"]),
        (["--status", "stale"], ["EXP-003"]),
        (["--status", "running"], ["EXP-003", "EXP-020"]),
        (["--status", "stale", "--status", "failed"], ["EXP-003", "EXP-010"]),
    ],
)
def test_filters(lab: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], found: list[str]) -> None:
    folder = lab / ARMS[2].folder
    value = read.read_json(folder / layout.EXPERIMENT) | {"status": "running"}
    value["attempts"][0] |= {"host": claims.hostname(), "pid": 2**22 - 1, "boot_id": claims.boot_id()}
    write.write_json(folder / layout.EXPERIMENT, value)
    folder = make(lab, Arm("EXP-020", method="sft", config="lora/live"))
    value = read.read_json(folder / layout.EXPERIMENT) | {"status": "running"}
    value["attempts"][0] |= {"host": claims.hostname(), "pid": os.getpid(), "boot_id": claims.boot_id()}
    value["attempts"][0]["started"] = "2100-01-01T00:00:00+00:00"
    write.write_json(folder / layout.EXPERIMENT, value)
    assert shown(capsys, *arguments) == found


def test_a_filter_that_leaves_nothing_says_so(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--model", "none"]) == 0
    assert "No experiment in" in (said := capsys.readouterr().out)
    assert "is like that" in said


def test_a_slow_reading_says_so_on_standard_error(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unsay.cli._lab._PATIENCE", 0.0)
    assert len(shown(capsys)) == len(ARMS)
    (lab / layout.INDEX).unlink()
    assert cli.main(["status", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == 1
    assert captured.err == f"reading {len(ARMS)} experiments of the lab once, for its index\n"


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "lab.py"), "--folder", str(tmp_path / "big")]
    command += ["--experiments", "60", "--items", "5", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no index:" in done.stdout
    assert f"warm, {FIRST} shown:" in done.stdout
    assert not (tmp_path / "big").exists()


@pytest.mark.slow
def test_the_first_screen_of_ten_thousand_experiments(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "lab.py"), "--folder", str(tmp_path / "big")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    (seconds, memory) = re.findall(rf"warm, {FIRST} shown: +([\d.]+) s .* (\d+) MiB", done.stdout)[0]
    assert float(seconds) < 1.0
    assert int(memory) < 2048


# -- archive ------------------------------------------------------------------------


def test_archived_experiments_are_hidden_and_nothing_of_them_is_lost(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {path: path.read_bytes() for path in lab.rglob("*.json*")}
    assert cli.main(["archive", "EXP-004", ARMS[1].folder]) == 0
    assert "unsay archive --undo" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in everything} == everything
    assert shown(capsys) == ["EXP-001", "EXP-003", "EXP-010", ARMS[-1].folder]
    assert shown(capsys, "--archived") == ["EXP-002", "EXP-004", "EXP-004"]
    assert cli.main(["status"]) == 0
    assert "3 archived; --archived shows them." in capsys.readouterr().out
    page = (lab.parent / layout.PAGE).read_text()
    assert "EXP-004" not in page
    assert "Archived and not shown: 2 (`unsay status --archived`)." in page
    assert cli.main(["report", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "EXP-004" not in json.dumps(report)
    assert cli.main(["report", "--format", "csv"]) == 0
    assert "EXP-004" not in capsys.readouterr().out
    assert cli.main(["show", "EXP-004"]) == 0
    assert cli.main(["compare", "EXP-003", "EXP-004"]) == 0
    capsys.readouterr()
    assert cli.main(["archive", "--undo", "EXP-004", "EXP-002", "--json"]) == 0
    done: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [(one["id"], one["archived"]) for one in done["experiments"]] == [("EXP-004", False), ("EXP-002", False)]
    assert len(shown(capsys)) == len(ARMS)
    assert "EXP-004" in (lab.parent / layout.PAGE).read_text()


def test_archived_seeds_are_compared_only_by_name(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        make(lab, Arm(f"EXP-03{seed}", "m", "sft", "lora/train", seed=seed, seeded=True))
    make(lab, Arm("EXP-040", "m", "sft", "lora/train_bt"))
    assert cli.main(["archive", "EXP-032"]) == 0
    capsys.readouterr()
    for named, used in (("EXP-030", ["EXP-030", "EXP-031"]), ("EXP-032", ["EXP-030", "EXP-031", "EXP-032"])):
        assert cli.main(["compare", "EXP-040", named, "--json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["comparisons"]
        assert one["other"]["experiments"] == used


def test_what_cannot_be_archived(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["archive", "EXP-001", "EXP-0404"]) == 1
    assert "Did you mean EXP-004" in capsys.readouterr().err
    assert not list(lab.rglob(layout.ARCHIVED))
    assert cli.main(["archive", ARMS[4].folder]) == 1
    assert "goes where its experiment goes" in capsys.readouterr().err
    assert cli.main(["archive", "EXP-001"]) == 0
    mark = lab / ARMS[0].folder / layout.ARCHIVED
    before = mark.read_bytes()
    assert cli.main(["archive", "EXP-001"]) == 0
    assert mark.read_bytes() == before
    assert cli.main(["archive", "--undo", "EXP-001"]) == 0
    assert cli.main(["archive", "--undo", "EXP-001"]) == 0
    assert not mark.exists()
