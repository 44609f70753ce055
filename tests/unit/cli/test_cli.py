"""The command line: light to start, honest about failure, one document with --json."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unsay
from tests.unit.lab import ARMS, make, make_lab
from unsay import cli
from unsay.report.markdown import END_KEEP, KEEP
from unsay.store import claims, layout, read, write

HEAVY = ("torch", "transformers", "lm_eval", "scipy", "peft", "datasets", "pandas")
SOURCE = str(Path(unsay.__file__).parent.parent)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_lab(tmp_path / "outputs")


def run_fresh(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


# -- starting up ------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["status"], ["status", "--json"], ["report"], ["show", "EXP-004", "0"], ["ls"]],
    ids=" ".join,
)
def test_reading_commands_import_nothing_heavy(lab: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from unsay.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    environment = os.environ | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=lab.parent, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().split("\n")[-1] == "[]"


@pytest.mark.parametrize("arguments", ["'--help'", "'status'"])
def test_help_and_status_start_quickly(lab: Path, arguments: str) -> None:
    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_fresh(code, lab.parent)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Against the libraries no command can do without, as machines differ and are rarely quiet.
    libraries = "import typer, typer.main, rich.console, rich.table, rich.text, numpy, psutil"
    bare = min(seconds(libraries) for _ in range(5))
    ours = min(seconds(f"from unsay.cli import main; main([{arguments}])") for _ in range(5))
    assert ours < 2.5 * bare


def test_help_imports_no_command(tmp_path: Path) -> None:
    done = run_fresh(
        "import sys; from unsay.cli import main; main(['--help']); "
        "print([name for name in sys.modules if name.startswith('unsay.cli.')])",
        tmp_path,
    )
    assert done.stdout.strip().split("\n")[-1] == "[]"


def test_import_unsay_is_light_and_every_public_name_is_there() -> None:
    assert run_fresh("import unsay, sys; print('unsay.undo' in sys.modules)", Path.cwd()).stdout == "False\n"
    for name in unsay.__all__:
        if name != "load_plan":  # reads YAML; tested with the experiment files
            assert getattr(unsay, name) is not None
    assert set(unsay.__all__) - {"__version__"} == set(unsay._PLACES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unsay.nothing


# -- every command ----------------------------------------------------------------


def test_the_commands_of_this_page_are_found() -> None:
    assert {"status", "report", "show", "ls", "doctor", "note"} <= set(cli.commands())


@pytest.mark.parametrize("name", cli.commands())
def test_every_command_has_a_line_and_a_page_of_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = cli.help_line(cli.commands()[name])
    assert line.endswith(".")
    assert len(line) > 10
    assert cli.main([name, "--help"]) == 0
    assert line.split(":")[0].split(";")[0].split()[0] in capsys.readouterr().out


def test_names_of_files_become_names_of_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("import_.py", "lm_eval.py", "_hidden.py"):
        (tmp_path / name).write_text('def command() -> None:\n    """Do it.\n\n    More."""\n')
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    assert cli.commands() == {"import": "import_", "lm-eval": "lm_eval"}
    assert cli.help_line("lm_eval") == "Do it."


def test_wrong_usage_exits_with_2_and_names_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["statsu"]) == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err
    assert cli.main(["show"]) == 2
    assert cli.main(["status", "--nonsense"]) == 2


def test_errors_go_to_standard_error_without_a_traceback(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "EXP-00\x1b1", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no experiment has the id or folder")
    assert "\x1b" not in err


def test_an_interrupt_exits_with_130(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert cli.main(["status", "--watch"]) == 130


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"unsay {unsay.__version__}\n"


# -- status, report, note ---------------------------------------------------------


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert value["schema"] == 1
    return value


def test_status_shows_every_experiment_and_escapes_notes(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["note", "EXP-001", "[red]a\x1b[2Jb"]) == 0
    capsys.readouterr()
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "83.50 ± 2.63" in out
    assert "failed: out of disk" in out
    assert "20 of 200" in out
    assert "[red]a␛[2Jb" in out
    assert "\x1b" not in out


def test_status_as_json(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write.write_text(lab / "broken" / layout.EXPERIMENT, "{")
    assert cli.main(["status", "--json"]) == 0
    found = document(capsys)["experiments"]
    assert [item["id"] for item in found[:3]] == ["EXP-001", "EXP-002", "EXP-003"]
    assert found[0]["metrics"]["exact_match_strict"]["value"] == pytest.approx(83.5)
    broken = next(item for item in found if item["folder"] == "broken")
    assert broken["status"] == "unreadable"
    assert "is not JSON" in broken["problem"]


def test_status_without_a_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "-o", str(tmp_path / "none"), "--json"]) == 0
    assert document(capsys)["experiments"] == []
    assert cli.main(["status", "-o", str(tmp_path / "none")]) == 1
    assert "--output-dir" in capsys.readouterr().err


def test_status_of_a_running_experiment_shows_how_far_it_is(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab / ARMS[0].folder
    value = json.loads((folder / layout.EXPERIMENT).read_text())
    value["status"] = "running"
    value["attempts"][0] |= {"host": claims.hostname(), "pid": 2**22 - 1, "boot_id": claims.boot_id()}
    write.write_json(folder / layout.EXPERIMENT, value)
    beat = {"schema": 1, "stage": "evaluate", "done": 412, "total": 1319, "so_far": {"value": 71.2, "stderr": 2.2}}
    write.write_json(folder / layout.HEARTBEAT, beat)
    assert cli.main(["status"]) == 0
    assert "running (stale) 412/1319, EM 71.2 ± 2.2 so far" in capsys.readouterr().out


def test_report_writes_the_page(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--json"]) == 0
    value = document(capsys)
    assert Path(value["page"]) == lab.parent / layout.PAGE
    assert value["headline"].startswith("EM (strict) differs")
    assert len(value["differences"]) == 3
    assert cli.main(["report", "--page", "other.md"]) == 0
    assert (lab.parent / "other.md").is_file()


def test_note_is_written_into_the_record_and_onto_the_page(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 0
    page = lab.parent / layout.PAGE
    page.write_text(page.read_text().replace(f"{KEEP}\n\n{END_KEEP}", f"{KEEP}\nmine\n{END_KEEP}"))
    assert cli.main(["note", "EXP-002", "tried | twice"]) == 0
    record = read.record(lab / ARMS[1].folder)
    assert record is not None
    assert record.notes == "tried | twice"
    assert r"tried \| twice" in page.read_text()
    assert f"{KEEP}\nmine\n{END_KEEP}" in page.read_text()


# -- show, ls, doctor -------------------------------------------------------------


def test_show_an_experiment(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "EXP-004"]) == 0
    out = capsys.readouterr().out
    assert "54.00 ± 3.53" in out
    assert "undo.strategy: random_tokens" in out
    assert cli.main(["show", "EXP-004", "--json"]) == 0
    value = document(capsys)
    assert value["spec"]["settings"]["undo"]["mask"] == "errors"
    assert value["metrics"]["bleu"]["reason"] == "too few items"


def test_show_an_item_with_what_was_taken_back(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "EXP-004", "0"]) == 0
    out = capsys.readouterr().out
    for text in ("Question 0?", "#### 0", "[- 5-]<|BACKTRACK|> 4<|end|>", "4 sampled, 2 kept, 1 taken back"):
        assert text in out
    assert cli.main(["show", "EXP-004", "0", "--json"]) == 0
    value = document(capsys)
    assert [token["kind"] for token in value["tokens"]] == ["taken back", "undo", "kept", "end"]
    assert value["visible"] == " 4"
    assert set(value["scores"]) == {"exact_match (strict-match)", "exact_match (flexible-extract)"}


def test_show_neutralises_what_a_model_wrote(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "EXP-001", "1"]) == 0
    out = capsys.readouterr().out
    assert "7␛[2J" in out
    assert "\x1b" not in out


def test_show_an_item_without_a_trace(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / ARMS[0].folder / layout.TRACES).unlink()
    (lab / ARMS[0].folder / layout.PROMPTS).unlink()
    assert cli.main(["show", "EXP-001", "7"]) == 0
    out = capsys.readouterr().out
    assert "no trace was recorded" in out
    assert "Question 7?" in out
    assert cli.main(["show", "EXP-001", "9999"]) == 1
    assert "it has items 0 to 199" in capsys.readouterr().err


def test_ls_lists_plugins_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "--json"]) == 0
    value = document(capsys)
    assert {"models", "datasets", "methods", "strategies", "metrics", "executors", "names"} < set(value)
    assert len(value["metrics"]) >= 5
    assert all(value["metrics"].values())
    assert cli.main(["ls", "metric"]) == 1
    assert "did you mean 'metrics'" in capsys.readouterr().err


def test_doctor_reports_and_fails_only_for_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert cli.main(["doctor", "--quick", "--json", "-o", str(tmp_path / "outputs")]) == 0
    checks = {check["name"]: check for check in document(capsys)["checks"]}
    assert checks["lab folder"]["level"] == "ok"
    assert checks["hub token"]["level"] == "note"
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--quick", "-o", str(tmp_path / "file")]) == 1
    assert "BAD  lab folder" in capsys.readouterr().out


def test_doctor_never_shows_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    cli.main(["doctor", "--quick", "--json", "-o", str(tmp_path)])
    assert "hf_secret" not in capsys.readouterr().out


def test_a_lab_in_use_is_not_written_to(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with write.lock(lab / ARMS[0].folder):
        assert cli.main(["note", "EXP-001", "x"]) == 1
    assert "is writing" in capsys.readouterr().err
    make(lab, ARMS[0].__class__("EXP-020", model="m"))
    assert cli.main(["note", "EXP-020", "x"]) == 0


def test_a_note_on_a_limited_run_waits_for_whoever_writes_the_experiment(lab: Path) -> None:
    whole, limited = lab / ARMS[3].folder, lab / ARMS[4].folder
    with write.lock(whole):
        assert cli.main(["note", str(limited), "x"]) == 1
    assert cli.main(["note", str(limited), "x"]) == 0
    record = read.record(limited)
    assert record is not None
    assert record.notes == "x"
    assert not list(limited.glob(f"{layout.CLAIM_PREFIX}*"))


# -- run --------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an experiment file whose second experiment has a broken training line."""
    monkeypatch.chdir(tmp_path)
    importlib.import_module("unsay.cli._running")  # imported while it is replaced, it would keep the replacement
    monkeypatch.setattr("unsay.runner.run", lambda *_: pytest.fail("something was run"))
    model, data = tmp_path / "model", tmp_path / "data"
    for folder, name, text in (
        (model, "config.json", '{"model_type": "qwen3"}'),
        (model, "tokenizer.json", "{}"),
        (model, "model.safetensors", ""),
        (data, "train.jsonl", "{broken\n"),
        (data, "test.jsonl", '{"question": "2+2?", "answer": "#### 4"}\n'),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    file = tmp_path / "lab.yaml"
    file.write_text(
        "models: {m: {path: ./model}}\n"
        "datasets: {d: {path: ./data, format: gsm8k}}\n"
        "experiments:\n"
        "  - {id: A, model: qwen3-0.6b, dataset: gsm8k, method: vanilla, config: fewshot_0}\n"
        "  - {id: B, model: m, dataset: d, method: vanilla, config: fewshot_0}\n"
    )
    return file


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--dtype", "floaty", "bfloat16"),
        ("--device", "gpu", "cuda:N"),
        ("--device", "cuda:", "cuda:N"),
        ("--executor", "locl", "did you mean 'local'?"),
    ],
)
def test_wrong_options_of_a_run_are_wrong_usage(
    file: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    assert cli.main(["run", str(file), "A", "--dry-run", option, value]) == 2
    assert expected in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--dtype", "float16"), ("--device", "mps"), ("--device", "cuda:1"), ("--executor", "inline")],
)
def test_good_options_of_a_run(file: Path, option: str, value: str) -> None:
    assert cli.main(["run", str(file), "A", "--dry-run", option, value]) == 0


def test_all_mistakes_of_a_run_come_together(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("id: A,", "id: A, sed: 1,"))
    assert cli.main(["run", str(file), "--dry-run"]) == 1
    err = capsys.readouterr().err
    assert "2 mistakes" in err
    assert f"{file}:4: unknown key in an experiment 'sed'; did you mean 'seed'?" in err
    assert f"{file}:5: dataset 'd': {file.parent / 'data' / 'train.jsonl'}:1: expected one JSON object" in err


def test_only_chosen_experiments_are_looked_at(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(file), "A", "--dry-run"]) == 0
    assert cli.main(["run", str(file), "B", "--dry-run"]) == 1
    capsys.readouterr()
    file.write_text(file.read_text().replace("id: A,", "id: A, sed: 1,"))
    assert cli.main(["run", str(file), "A", "--dry-run"]) == 1
    assert "train.jsonl" not in capsys.readouterr().err
    file.write_text(file.read_text().replace(" sed: 1,", ""))
    assert cli.main(["run", str(file), "C", "--dry-run"]) == 1
    assert "unknown experiment 'C'" in capsys.readouterr().err
