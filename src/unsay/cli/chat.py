"""`unsay chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from unsay.cli import _answering, _lab

PROMPT = ">>> "


def command(
    model: _answering.ModelName,
    system: Annotated[str | None, typer.Option(help="What the model is told before the chat begins.")] = None,
    max_new_tokens: _answering.MaxNewTokens = 512,
    temperature: _answering.Temperature = None,
    top_p: _answering.TopP = None,
    top_k: _answering.TopK = None,
    seed: _answering.Seed = 0,
    stop: _answering.Stop = None,
    undo_context: _answering.UndoContext = None,
    undo: _answering.UndoOption = _answering.Undo.ALLOW,
    undo_bias: _answering.UndoBias = 0.0,
    keep_retracted: _answering.Keep = False,
    template: _answering.Template = None,
    adapter: _answering.Adapter = None,
    device: _answering.Device = "auto",
    dtype: _answering.DtypeOption = _answering.Dtype.AUTO,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Chat with a model that takes tokens back; Ctrl-C ends an answer, Ctrl-D the chat."""
    decode = _answering.decode_of(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        undo_context=undo_context,
        undo=undo,
        undo_bias=undo_bias,
        stop=stop,
    )
    answerer = _answering.Answerer.of(
        model,
        output_dir,
        decode=decode,
        device=device,
        dtype=dtype,
        adapter=adapter,
        template=template,
        chat=True,
    )
    with answerer:
        for warning in answerer.ready["warnings"]:
            _lab.say(f"warning: {warning}")
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        failed = False
        for at, text in enumerate(_said(show_hint=not as_json)):
            try:
                ended = _answer(
                    answerer,
                    [*messages, {"role": "user", "content": text}],
                    seed + at,
                    keep=keep_retracted,
                    stop=stop,
                    quiet=as_json,
                )
            except _answering.RefusedError as error:
                _lab.say(f"error: {error}")
                failed = True
                continue
            # What was taken back is not part of the chat: the next answer is written from what survived.
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": ended["visible"], "answer": _answering.answer_of(ended)})
        if as_json:
            _lab.print_json({"schema": 1, **_answering.facts_of(answerer), "messages": messages}, data=True)
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


def _said(*, show_hint: bool) -> Iterator[str]:
    """Yield what the user says, a line at a time, until the input ends."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for `input`)
    if show_hint:
        _lab.say("Ctrl-C ends an answer, Ctrl-D the chat.")
    while True:
        try:
            if sys.stdout.isatty():
                text = input(PROMPT)
            else:  # standard output is for the answers alone
                print(PROMPT, end="", file=sys.stderr, flush=True)
                text = input()
        except EOFError:
            _lab.say("")
            return
        except KeyboardInterrupt:
            _lab.say("\n(Ctrl-D ends the chat)")
            continue
        if text.strip():
            yield text


def _answer(
    answerer: _answering.Answerer,
    messages: list[dict[str, Any]],
    seed: int,
    *,
    keep: bool,
    stop: list[str] | None,
    quiet: bool,
) -> dict[str, Any]:
    """Show an answer while it is written, and return it; the first Ctrl-C ends it, a second one the chat."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    view = None if quiet else _answering.view(keep=keep, stop=stop)
    ended: dict[str, Any] = {}
    try:
        for event in answerer.ask_until_stopped(messages=plain, seed=seed):
            if view is not None and event["event"] != "done":
                view.take(event)
            if event["event"] == "end":
                ended = event
    finally:
        if view is not None and ended:
            view.close()
    if not quiet and ended["finish_reason"] not in ("eos", "stop"):
        _lab.say(f"(ended by {ended['finish_reason']})")
    return ended
