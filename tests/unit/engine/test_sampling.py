"""Drawing tokens: the distribution is the model's wherever an answer is, behind a rewind too."""

from __future__ import annotations

import torch

from tests.unit.engine.test_engine import options
from unsay import engine
from unsay.engine.sampling import Sampler
from unsay.engine.sequence import Rules, WritingSequence
from unsay.records import Key
from unsay.settings import Decode
from unsay.undo import Action, UndoTable


def test_an_undo_is_as_likely_behind_a_rewind_as_elsewhere() -> None:
    share, size = 0.4, 12
    table = UndoTable({size - 1: Action("pop")}, {size - 1: "<pop>"})
    decode = Decode(do_sample=True, undo_context="rewind", max_new_tokens=120, max_visits=10_000)
    chosen = options(decode, table)
    sampler = Sampler(chosen)
    logits = torch.log(torch.tensor([[(1 - share) / (size - 1)] * (size - 1) + [share]]))
    seen: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(40):
        rules = Rules(decode, table, frozenset(), chosen.text_of, 10_000)
        sequence = WritingSequence(engine.Request(Key("t", seed), (0,), seed=seed), rules)
        rewound = False
        while sequence.finish_reason is None:
            (choice,) = sampler.choose(logits, [sequence])
            if choice is not None and size - 1 not in sequence.banned():
                seen[rewound].append(choice.token == size - 1)
            sequence.take(choice)
            rewound = sequence.needs_prefill
            sequence.needs_prefill = False
    for drawn in seen.values():  # what was just taken back is banned, which leaves the undo a little more
        assert len(drawn) > 200
        assert share - 0.05 < sum(drawn) / len(drawn) < share + 0.08
