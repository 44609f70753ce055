"""Give a model's control tokens a first embedding row, without noise.

A row that was never trained holds whatever the file had there. Here it becomes a mean of rows that mean something,
scaled to the median length of all rows. Rows the weights already know (the `undo.json` beside them says which) stay.

    initialise(model, tokenizer, table, how="description", keep=())
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch

from unsay.undo import Action, UndoTable

Init = Literal["description", "mean", "words"]

WORDS = ("delete", "undo", "erase", "remove", "retract", "backspace")


def describe(action: Action) -> str:
    """Say in English what a control token does; its row may start as the mean of these words."""
    if action.kind == "pop_line":
        return "delete the last line, it is wrong"
    if action.kind == "pop_all":
        return "delete the whole answer and start again, it is wrong"
    if action.count == 1:
        return "delete the previous token, it is wrong"
    return f"delete the previous {action.count} tokens, they are wrong"


def initialise(model: Any, tokenizer: Any, table: UndoTable, how: Init, keep: Collection[int] = ()) -> tuple[int, ...]:
    """Set the input row, and the output row where it is a different one, of every control id not in `keep`.

    Return the ids that were set. The model must have a row for each of them (`unsay.loading.grow`).
    """
    ids = [id for id in table.actions if id not in keep]
    if not ids:
        return ()
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    matrices = [embeddings.weight]
    if head is not None and head.weight is not embeddings.weight:
        matrices.append(head.weight)
    used = torch.tensor(sorted(set(range(min(len(tokenizer), len(matrices[0])))) - set(ids)))
    with torch.no_grad():
        for matrix in matrices:
            rows = matrix[used.to(matrix.device)].float()
            length = rows.norm(dim=1).median()
            for id in ids:
                sources = _sources(tokenizer, table.actions[id], how)
                mean = (
                    rows.mean(0) if not sources else matrix[torch.tensor(sources, device=matrix.device)].float().mean(0)
                )
                matrix[id] = (mean * (length / mean.norm().clamp_min(1e-12))).to(matrix.dtype)
    return tuple(ids)


def _sources(tokenizer: Any, action: Action, how: Init) -> list[int]:
    """Return the ids whose rows are averaged; none stands for all used rows."""
    if how == "mean":
        return []
    texts = [describe(action)] if how == "description" else [lead + word for word in WORDS for lead in ("", " ")]
    split = [tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]
    whole = [ids for ids in split if len(ids) == 1]
    return [id for ids in (whole if how == "words" and whole else split) for id in ids]
