"""`unsay generate`."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Annotated, Any

import typer

from unsay.cli import _answering, _lab


def command(
    model: _answering.ModelName,
    prompt: Annotated[str, typer.Argument(help="What to answer; `-` reads it from standard input.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Answers; more than one needs sampling.")] = 1,
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
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Let the model go on with the prompt as it stands.")
    ] = False,
    template: _answering.Template = None,
    adapter: _answering.Adapter = None,
    device: _answering.Device = "auto",
    dtype: _answering.DtypeOption = _answering.Dtype.AUTO,
    output_dir: _lab.OutputDir = _lab.DEFAULT,
    as_json: _lab.Json = False,
) -> None:
    """Answer a prompt, and watch what is taken back go."""
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
    if n > 1 and "do_sample" not in decode:
        raise typer.BadParameter("all answers would be the same; add --temperature.", param_hint="-n")
    if no_chat_template and template is not None:
        raise typer.BadParameter("--template and --no-chat-template exclude each other.", param_hint="--template")
    asked = sys.stdin.read() if prompt == "-" else prompt
    answerer = _answering.Answerer.of(
        model,
        output_dir,
        decode=decode,
        device=device,
        dtype=dtype,
        adapter=adapter,
        template=template,
        chat=False,
    )
    with answerer:
        for warning in answerer.ready["warnings"]:
            _lab.say(f"warning: {warning}")
        events = answerer.ask(prompt=asked, plain=no_chat_template, n=n, seed=seed)
        if as_json:
            _print_document(answerer, list(events))
        else:
            _show(events, n, keep_retracted, stop)


def _show(events: Any, n: int, keep: bool, stop: list[str] | None) -> None:
    """Show the answers one after another, in their order; those that are not their turn yet wait."""
    waiting: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for at in range(n):
        if n > 1:
            print(f"--- {at + 1} of {n} ---", flush=True)
        view = _answering.view(keep=keep, stop=stop)
        try:
            ended = None
            for event in waiting.pop(at, []):
                view.take(event)
                ended = event if event["event"] == "end" else ended
            while ended is None:
                event = next(events)
                if event["event"] == "done":
                    return
                if event["answer"] != at:
                    waiting[event["answer"]].append(event)
                    continue
                view.take(event)
                ended = event if event["event"] == "end" else None
        finally:
            view.close()
        if ended["finish_reason"] not in ("eos", "stop"):
            _lab.say(f"(ended by {ended['finish_reason']})")


def _print_document(answerer: _answering.Answerer, events: list[dict[str, Any]]) -> None:
    done = events[-1]
    answers = sorted((event for event in events if event["event"] == "end"), key=lambda event: int(event["answer"]))
    _lab.print_json(
        {
            "schema": 1,
            **_answering.facts_of(answerer),
            "prompt": done["prompt"],
            "answers": [_answering.answer_of(event) for event in answers],
            "engine": done["engine"],
        }
    )
