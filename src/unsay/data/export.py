"""Training rows for other trainers: ids where they take ids, text only where it becomes the same ids again.

    write_file(out, trl(rows, "errors"))

`trl` gives what TRL's SFTTrainer takes as tokenized already: `input_ids` and `labels`, -100 where there is no loss, and
`completion_mask`, which says the same to its older releases. `llamafactory` gives text in alpaca's or sharegpt's
format: that tool tokenizes it itself, and has no mask within an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay.errors import DataError
from unsay.records import Row
from unsay.store import write
from unsay.undo import Mask, loss_weights

TRL, LLAMAFACTORY = "trl", "llamafactory"
TARGETS = (TRL, LLAMAFACTORY)
STYLES = ("alpaca", "sharegpt")
NO_LOSS = -100

_MARK = "zqmarkqz"


@dataclass(frozen=True)
class Refused:
    """A row that cannot be exported."""

    id: str
    reason: str


@dataclass(frozen=True)
class Texts:
    """What exporting text needs of a tokenizer: ids to text, text to ids with special tokens, a user turn's prompt."""

    text_of: Callable[[Sequence[int]], str]
    encode: Callable[[str], tuple[int, ...]]
    render: Callable[[str], str]


def trl(rows: Iterable[Row], mask: Mask) -> Iterator[Mapping[str, Any] | Refused]:
    """Yield one line per row. Weights other than 0 and 1 become 1: labels have none."""
    for row in rows:
        learnt = [weight > 0 for weight in loss_weights(row.provenance, mask)]
        num_prompt = len(row.prompt_ids)
        yield {
            "input_ids": [*row.prompt_ids, *row.ids],
            "labels": [NO_LOSS] * num_prompt
            + [id if has_loss else NO_LOSS for id, has_loss in zip(row.ids, learnt, strict=True)],
            "completion_mask": [0] * num_prompt + [int(has_loss) for has_loss in learnt],
        }


def llamafactory(rows: Iterable[Row], texts: Texts, *, style: str) -> Iterator[Mapping[str, Any] | Refused]:
    """Yield one line per row whose prompt and answer, as text, are encoded to the very ids of the row."""
    head, _, tail = texts.render(_MARK).partition(_MARK)
    for row in rows:
        answer = texts.text_of(row.ids[:-1])
        if (reason := _changed(texts.encode(answer), row.ids[:-1], "answer")) is not None:
            yield Refused(row.id, reason)
            continue
        prompt = texts.text_of(row.prompt_ids)
        start, end = prompt.find(head), len(prompt) - len(tail)
        turn = prompt[start + len(head) : end]
        rendered = "" if start < 0 or not prompt.endswith(tail) else texts.render(turn)
        again = texts.encode(rendered)
        # A beginning token that the tokenizer adds by itself is among the row's ids, not in the text.
        if not rendered or again != row.prompt_ids[len(row.prompt_ids) - len(again) :]:
            yield Refused(row.id, "expected a prompt that is encoded to the same ids again, got other ones")
            continue
        if style == "alpaca":
            yield {"instruction": turn, "input": "", "output": answer}
        else:
            yield {"conversations": [{"from": "human", "value": turn}, {"from": "gpt", "value": answer}]}


def write_file(out: Path, lines: Iterable[Mapping[str, Any] | Refused]) -> dict[str, Any]:
    """Write the lines, and beside them the refused rows; raise DataError where nothing is left."""
    written: list[bytes] = []
    refused: list[Refused] = []
    for line in lines:
        if isinstance(line, Refused):
            refused.append(line)
        else:
            written.append(write.json_line(dict(line)))
    if not written:
        first = f"; {refused[0].id}: {refused[0].reason}" if refused else ""
        raise DataError(f"expected at least one row to export, but all {len(refused)} were refused{first}")
    write.write_bytes(out, b"".join(written))
    beside = out.with_name(f"{out.stem}.refused.jsonl")
    if refused:
        listed = [write.json_line({"id": each.id, "reason": each.reason}) for each in refused]
        write.write_bytes(beside, b"".join(listed))
    return {
        "file": str(out),
        "rows": len(written),
        "refused": len(refused),
        "refused_file": str(beside) if refused else None,
    }


def _changed(again: Sequence[int], ids: Sequence[int], what: str) -> str | None:
    if tuple(again) == tuple(ids):
        return None
    place = next(
        (at for at, (new, old) in enumerate(zip(again, ids, strict=False)) if new != old), min(len(again), len(ids))
    )
    return (
        f"expected an {what} whose text is encoded to the same ids again, got other ones from token {place} on "
        f"({len(again)} instead of {len(ids)})"
    )
