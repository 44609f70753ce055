"""What `generate` and `chat` share: their options, the process that answers, and how it is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from unsay import cores
from unsay.errors import EvaluationError

if TYPE_CHECKING:
    from unsay.report.stream import View


class RefusedError(EvaluationError):
    """One order could not be carried out; the process with the model goes on."""


class Dtype(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Context(StrEnum):
    KEEP = "keep"
    REWIND = "rewind"


class Undo(StrEnum):
    ALLOW = "allow"
    BAN = "ban"


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not auto, cpu, mps, cuda or cuda:N (such as cuda:1).")
    return value


ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A built-in name, hub id, folder, or finished experiment of the lab.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Sampled tokens per answer, retracted ones and undos included.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="Sample with this temperature; 0: the likeliest.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest, up to this share.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample from so many of the likeliest tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of what is sampled.")]
UndoContext = Annotated[
    Context | None, typer.Option(help="What the model sees of a retracted token; as it was trained without this.")
]
UndoOption = Annotated[Undo, typer.Option("--undo", help="ban: the control tokens are never sampled.")]
UndoBias = Annotated[float, typer.Option(help="Added to the logits of the control tokens.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends an answer; may be given again.")]
Keep = Annotated[bool, typer.Option("--keep-retracted", help="Leave what was taken back, struck through.")]
Template = Annotated[str | None, typer.Option(help="Chat template: a built-in one's name, or a .jinja file.")]
Adapter = Annotated[str | None, typer.Option(help="Folder of an adapter to put on the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.", callback=_device)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Numbers the weights are loaded as.")]


def decode_of(
    *,
    max_new_tokens: int,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    undo_context: Context | None,
    undo: Undo,
    undo_bias: float,
    stop: list[str] | None,
) -> dict[str, Any]:
    """Return what differs from `settings.Decode`; sampling is on where one of its settings is given."""
    sampled = (temperature, top_p, top_k) != (None, None, None) and temperature != 0.0
    if temperature == 0.0 and (top_p, top_k) != (None, None):
        raise typer.BadParameter("temperature 0 takes the likeliest token; leave out --top-p and --top-k.")
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k} if sampled else {}
    return {
        "max_new_tokens": max_new_tokens,
        "undo_context": None if undo_context is None else undo_context.value,
        "undo": undo.value,
        "undo_bias": undo_bias,
        "stop": stop or None,
        **drawn,
    }


@dataclass
class Answerer:
    """A process with a model loaded. It ends with the `with` block, whatever it is doing."""

    order: Mapping[str, Any]
    ready: dict[str, Any] = field(default_factory=dict)
    """What it said once the model was loaded."""

    @classmethod
    def of(
        cls,
        name: str,
        lab: Path,
        *,
        decode: Mapping[str, Any],
        device: str,
        dtype: Dtype,
        adapter: str | None,
        template: str | None,
        chat: bool,
    ) -> Answerer:
        """Find the model; raises ModelError, StoreError or ConfigError when it is not there."""
        from unsay.model_names import named

        found = named(name, lab, adapter=adapter, template=template)
        folder = None if found.adapter is None else str(found.adapter)
        return cls(
            {
                "model": asdict(found.model),
                "adapter": folder,
                "device": device,
                "dtype": dtype.value,
                "decode": dict(decode),
                "chat": chat,
            }
        )

    def __enter__(self) -> Answerer:
        self._log = tempfile.TemporaryFile()
        # A group of its own: Ctrl-C is for this process, which decides what to end.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unsay.answering"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict([cores.POLITE]) | os.environ,
            start_new_session=True,
        )
        self._asked = 0
        self._out: IO[bytes] = _pipe(self._process.stdout)
        try:
            self._tell(self.order)
            self.ready = self._next()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, **order: Any) -> Iterator[dict[str, Any]]:
        """Yield the events of one order up to `done`.

        Raises RefusedError with what is wrong with the order, EvaluationError when the process has ended.
        """
        self._asked += 1
        self._tell({"ask": self._asked, **order})
        while True:
            event = self._next()
            yield event
            if event["event"] == "done":
                return

    def ask_until_stopped(self, **order: Any) -> Iterator[dict[str, Any]]:
        """Like `ask`, but Ctrl-C ends the answer, whose events go on up to `done`; a second one raises."""
        interrupted = False

        def stop(signum: int, frame: Any) -> None:
            nonlocal interrupted
            if interrupted:
                raise KeyboardInterrupt
            interrupted = True
            self._tell({"stop": self._asked})

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield from self.ask(**order)
        finally:
            signal.signal(signal.SIGINT, before)

    def _tell(self, order: Mapping[str, Any]) -> None:
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # `_next` says what happened

    def _next(self) -> dict[str, Any]:
        line = self._out.readline()
        if not line:
            raise EvaluationError(f"the process with the model ended with code {self._process.wait()}:\n{self._tail()}")
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise RefusedError(event["error"])
        return event

    def _tail(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-12:])

    def _end(self) -> None:
        self._process.kill()  # it holds nothing that has to be saved
        self._process.wait()
        for each in (self._process.stdin, self._process.stdout, self._log):
            if each is not None:
                each.close()


def view(*, keep: bool, stop: list[str] | None) -> View:
    """Return what shows one answer here: drawn on a terminal, held back until it is final elsewhere."""
    from unsay.report.stream import Live, Plain

    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        size = shutil.get_terminal_size()
        return Live(sys.stdout, width=size.columns, height=size.lines, keep=keep)
    return Plain(sys.stdout, keep=keep, stop=stop or ())


def answer_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer as it stands in a document."""
    return {name: value for name, value in event.items() if name not in ("event", "answer")}


def facts_of(answerer: Answerer) -> dict[str, Any]:
    """Return what a document says about the model and how it was decoded."""
    ready = answerer.ready
    controls = [
        {key: each[key] for key in ("id", "token", "kind", "count")} for each in ready["undo_table"]["controls"]
    ]
    return {
        "model": ready["model"],
        "adapter": answerer.order["adapter"],
        "decode": ready["decode"],
        "controls": controls,
        **ready["facts"],
    }


def _pipe(found: IO[bytes] | None) -> IO[bytes]:
    assert found is not None
    return found
