"""`unsay generate` and `unsay chat` as a person runs them: on a terminal, in a pipe, as a document."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import unsay
from tests.screen import Screen
from tests.tiny import CONTROLS
from unsay import cli

TAKING_BACK = ["--undo-bias", "3", "--temperature", "1", "--seed", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def undoing(tiny_models: Callable[..., Path]) -> str:
    return str(tiny_models("qwen3", controls=CONTROLS))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(unsay.__file__).parents[1]), "TERM": "xterm", "COLUMNS": "80"}


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "unsay", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
        )
        os.close(theirs)
        self.output = ""

    def wait_for(self, text: str, after: int = 0, seconds: float = 90.0) -> int:
        """Read until `text` is there behind place `after`; return where it ends."""
        until = time.monotonic() + seconds
        while (at := self.output.find(text, after)) < 0:
            ready, _, _ = select.select([self.ours], [], [], until - time.monotonic())
            assert ready, f"no {text!r} after {seconds} s in {self.output!r}"
            try:
                self.output += os.read(self.ours, 65536).decode()
            except OSError:
                pytest.fail(f"ended without {text!r}: {self.output!r}")
        return at + len(text)

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def end(self) -> int:
        try:
            while data := os.read(self.ours, 65536):
                self.output += data.decode()
        except OSError:  # how Linux tells the end of a terminal
            pass
        os.close(self.ours)
        return self.process.wait(timeout=60)


def shown(output: str) -> Screen:
    screen = Screen()
    screen.write(output)
    return screen


def test_a_chat_on_a_terminal(undoing: str) -> None:
    """Words are struck through and go; Ctrl-C ends an answer, and at the prompt does nothing; Ctrl-D leaves."""
    terminal = Terminal("chat", undoing, *TAKING_BACK, "--max-new-tokens", "400")
    at = terminal.wait_for(">>> ")
    terminal.type("Tom has 12 apples\n")
    begun = terminal.wait_for("\n", at)
    terminal.wait_for("\x1b[9;31m", begun)  # something is taken back
    os.kill(terminal.process.pid, signal.SIGINT)
    stopped = terminal.wait_for("(ended by stopped)", begun)
    at = terminal.wait_for(">>> ", stopped)
    os.kill(terminal.process.pid, signal.SIGINT)
    at = terminal.wait_for("(Ctrl-D ends the chat)", at)
    terminal.wait_for(">>> ", at)
    terminal.type("\x04")
    assert terminal.end() == 0
    answer = shown(terminal.output[begun : stopped - len("(ended by stopped)")])
    assert answer.struck
    assert not any(name in answer.text for name in CONTROLS), "the undos and what they took are gone"


@pytest.mark.slow
def test_generate_as_a_document(undoing: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", undoing, "Tom has", *TAKING_BACK, "--max-new-tokens", "30", "-n", "3", "--json"]
    assert cli.main([*arguments, "--undo-context", "rewind"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["schema"] == 1
    assert found["decode"]["undo_context"] == "rewind"
    assert [answer["seed"] for answer in found["answers"]] == [1, 2, 3]
    for answer in found["answers"]:
        assert len(answer["ids"]) == len(answer["pieces"]) == answer["counts"]["sampled"] <= 30
        assert answer["finish_reason"] in ("max_steps", "max_visits", "eos")
        assert not any(name in answer["visible"] for name in CONTROLS)
    assert sum(answer["counts"]["undos"] for answer in found["answers"])
    assert found["prompt"]["text"].startswith("<|im_start|>user\nTom has")


@pytest.mark.slow
def test_pipes_and_terminals_end_with_the_same_text(undoing: str, tmp_path: Path) -> None:
    arguments = ["generate", undoing, "Tom has", *TAKING_BACK, "--max-new-tokens", "58"]
    document = run([*arguments, "--json"])
    visible = json.loads(document)["answers"][0]["visible"]
    assert len(visible) > 10
    assert run(arguments).split() == escaped(visible).split()
    kept = run([*arguments, "--keep-retracted"])
    assert "[-" in kept
    assert any(name in kept for name in CONTROLS)
    terminal = Terminal(*arguments)
    assert terminal.end() == 0
    screen = shown(terminal.output)
    assert screen.struck
    assert screen.text.split()[: len(escaped(visible).split())] == escaped(visible).split()
    staying = Terminal(*arguments, "--keep-retracted")
    assert staying.end() == 0
    screen = shown(staying.output)
    assert set("".join(screen.struck)) <= set(screen.text)
    assert any(name in screen.text for name in CONTROLS)
    assert run([*arguments[:2], "-", *arguments[3:]], "Tom has").split() == escaped(visible).split()


@pytest.mark.slow
def test_a_chat_in_a_pipe(undoing: str) -> None:
    """One line, one question; what an answer took back is not in the history."""
    arguments = ["chat", undoing, *TAKING_BACK, "--max-new-tokens", "20", "--system", "Count."]
    found = json.loads(run([*arguments, "--json"], "Tom has\n\nAnna <|BACKTRACK|> reads\n"))
    assert [each["role"] for each in found["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert found["messages"][2]["content"] == found["messages"][2]["answer"]["visible"]
    assert sum(each["answer"]["counts"]["undos"] for each in found["messages"] if "answer" in each)
    text = run(arguments, "Tom has\n\nAnna <|BACKTRACK|> reads\n")
    first = escaped(found["messages"][2]["content"]).split()
    assert text.split()[: len(first)] == first


def run(arguments: list[str], stdin: str = "") -> str:
    command = [sys.executable, "-m", "unsay", *arguments]
    done = subprocess.run(command, input=stdin, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def escaped(text: str) -> str:
    from unsay.report.escape import terminal

    return terminal(text)


def test_wrong_usage_is_refused_before_anything_is_loaded(
    undoing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["generate", undoing, "x", "-n", "2"], "add --temperature"),
        (["generate", undoing, "x", "--temperature", "0", "--top-k", "5"], "leave out --top-p and --top-k"),
        (["generate", undoing, "x", "--no-chat-template", "--template", "plain"], "exclude each other"),
        (["chat", undoing, "--device", "tpu"], "is not auto, cpu, mps, cuda"),
    ):
        assert cli.main(arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert cli.main(["chat", "nothing-like-it"]) == 1
    assert "error: expected a model: a built-in name" in capsys.readouterr().err


def test_lm_eval_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lm-eval"]) == 0
    assert "unsay lm-eval run --help" in " ".join(capsys.readouterr().out.split())
