"""Rows for a model that never sees what it took back: each token is predicted from the survivors of its time.

The trace of a row is a tree of stack heights. Each node is a survivor with exactly the survivors below it as its
context, and carries what was said next there: the token written on top of it, or the undo that took it back. A training
row is a path down from the prompt; every label of a node goes to one of the paths through it, so each counts once.

    A B U C   gives   prompt A B -> U   and   prompt A -> (B), C
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unsay.errors import TrainingError
from unsay.records import Row
from unsay.train.collate import Supervised
from unsay.undo import Mask, UndoStack, UndoTable, loss_weights

Label = tuple[int, float]


@dataclass
class _Node:
    """One survivor. `labels` are what was said next with it on top of the stack."""

    path: tuple[int, ...]
    """The nodes from the one above the prompt up to and including this one."""
    id: int
    labels: list[Label] = field(default_factory=list)


def split(row: Row, table: UndoTable, mask: Mask) -> list[Supervised]:
    """Return the rows that teach this row's trace with the survivors as context."""
    nodes = _tree(row, table, mask)
    rows: list[Supervised] = []
    while True:
        wanting = [node for node in nodes if node.labels]
        if not wanting:
            return rows
        # The deepest first: its path serves its ancestors too, so a plain answer stays one row.
        deepest = max(wanting, key=lambda node: len(node.path))
        rows.append(_path(row, nodes, deepest, len(rows)))


def _tree(row: Row, table: UndoTable, mask: Mask) -> list[_Node]:
    root = _Node((), row.prompt_ids[-1] if row.prompt_ids else -1)
    nodes = [root]
    stack = UndoStack(table)
    alive = [root]
    for id, weight in zip(row.ids, loss_weights(row.provenance, mask), strict=True):
        if weight:
            alive[-1].labels.append((id, weight))
        popped = stack.push(id)
        if popped:
            del alive[-popped:]
        if not table.is_control(id):
            nodes.append(_Node((*alive[-1].path, len(nodes)), id))
            alive.append(nodes[-1])
    if root.labels and not row.prompt_ids:
        raise TrainingError(f"row {row.id}: expected a prompt before the answer, got none; build the data again")
    return nodes


def _path(row: Row, nodes: list[_Node], end: _Node, number: int) -> Supervised:
    """Take one label from each node on the way to `end`."""
    prompt = len(row.prompt_ids)
    on_path = [nodes[0], *(nodes[index] for index in end.path)]
    targets = [0] * (prompt + len(end.path))
    weights = [0.0] * len(targets)
    for height, node in enumerate(on_path):
        if node.labels:
            targets[prompt - 1 + height], weights[prompt - 1 + height] = node.labels.pop(0)
    ids = row.prompt_ids + tuple(node.id for node in on_path[1:])
    return Supervised(f"{row.id}#{number}" if number else row.id, ids, tuple(targets), tuple(weights))
