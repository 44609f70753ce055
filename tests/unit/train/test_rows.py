"""From rows to batches: masks from provenance, grouping, padding, and rows that forget what was taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsay.loading import grow, load_model, load_tokenizer, undo_table
from unsay.models import family_of
from unsay.records import Row
from unsay.train import rewind, tokens
from unsay.train.collate import collate, order, supervise
from unsay.train.loss import batch_loss
from unsay.undo import MASKS, Action, UndoStack, UndoTable, loss_weights, resolve

U, LINE, END, NEWLINE = 90, 91, 99, 9
TABLE = UndoTable({U: Action("pop"), LINE: Action("pop_line")}, {U: "U", LINE: "L"}, frozenset({NEWLINE}))
Folders = Callable[..., Path]


def labels(row: Row) -> list[tuple[int, float]]:
    example = supervise(row, "errors")
    return list(zip(example.targets, example.weights, strict=True))


def test_the_mask_comes_from_provenance_also_where_undos_are_nested() -> None:
    # A B(e) C(e) U D(e) U U K: counting the run of two undos would unmask B.
    row = Row("r", (1, 2), (10, 11, 12, U, 13, U, U, 14, END), "ceeueuukc")
    assert [target for target, weight in labels(row) if weight] == [10, U, U, U, 14, END]
    assert [target for target, weight in labels(row) if not weight] == [2, 11, 12, 13]
    assert sum(supervise(row, "none").weights) == len(row.ids)


def test_collating_pads_and_keeps_supervised_positions_only() -> None:
    rows = [Row("a", (1, 2, 3), (10, END), "cc"), Row("b", (4,), (11, 12, U, 13, END), "ceukc")]
    batch = collate([supervise(row, "errors") for row in rows])
    assert batch.input_ids.tolist() == [[1, 2, 3, 10, 0], [4, 11, 12, U, 13]]
    assert batch.targets.tolist() == [10, END, 11, U, 13, END]
    assert batch.weights.tolist() == [1.0] * 6
    assert batch.chosen.sum() == 6


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=300), size=st.integers(1, 8), epoch=st.integers(0, 3))
def test_an_epoch_takes_every_row_once(lengths: list[int], size: int, epoch: int) -> None:
    batches = order(lengths, size=size, seed=1, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert batches == order(lengths, size=size, seed=1, epoch=epoch)


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = [10 + index % 50 for index in range(400)]
    batches = order(lengths, size=8, seed=0, epoch=0)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert sum(spread) / len(spread) < 5
    assert batches != order(lengths, size=8, seed=0, epoch=1)


def expected_pairs(row: Row, mask: str) -> Counter[tuple[tuple[int, ...], int, float]]:
    """What a model that rewinds is asked, step by step: the survivors of the time, and the next token."""
    stack, pairs = UndoStack(TABLE), Counter()
    for id, weight in zip(row.ids, loss_weights(row.provenance, mask), strict=True):
        if weight:
            pairs[(*row.prompt_ids, *stack.survivors), id, weight] += 1
        stack.push(id)
    return pairs


@given(
    trace=st.lists(st.sampled_from([10, 11, NEWLINE, U, LINE]), max_size=14),
    mask=st.sampled_from(MASKS),
    data=st.data(),
)
def test_split_and_packed_rows_ask_exactly_what_a_rewinding_model_is_asked(
    trace: list[int], mask: str, data: st.DataObject
) -> None:
    letters = [data.draw(st.sampled_from("cek")) if id not in (U, LINE) else "u" for id in trace]
    row = Row("r", (1, 2), (*trace, END), "".join(letters) + "c")
    for examples in (rewind.split(row, TABLE, mask), [rewind.pack(row, TABLE, mask)]):
        found: Counter[tuple[tuple[int, ...], int, float]] = Counter()
        for example in examples:
            assert not {U, LINE, END} & set(example.ids)
            for place, target, weight in example.labels():
                found[rewind.context(example, place), target, weight] += 1
        assert found == expected_pairs(row, mask)


@given(trace=st.lists(st.sampled_from([10, 11, NEWLINE, U, LINE]), max_size=14))
def test_a_packed_row_sees_what_its_context_says_at_the_position_its_height_gives(trace: list[int]) -> None:
    row = Row("r", (1, 2), (*trace, END), "".join("u" if id in (U, LINE) else "c" for id in trace) + "c")
    example = rewind.pack(row, TABLE, "none")
    other = Row("s", (1, 2, 3), (10,) * 5 + (END,), "c" * 6)  # shares the batch, and is longer or shorter
    batch = collate([supervise(other, "none"), example])
    if batch.sees is None or batch.positions is None:
        assert example.below is None
        return
    for at in range(len(example.ids)):
        seen = batch.sees[1, 0, at].nonzero()[:, 0]
        by_height = sorted(seen.tolist(), key=lambda index: int(batch.positions[1, index]))
        assert tuple(example.ids[index] for index in by_height) == rewind.context(example, at)
        assert [int(batch.positions[1, index]) for index in by_height] == list(range(len(by_height)))
    width = batch.input_ids.shape[1]
    assert torch.equal(batch.sees[0, 0], torch.ones(width, width, dtype=torch.bool).tril())


def nested(folder: str) -> tuple[object, list[Row]]:
    """Return a model and rows of its ordinary tokens with undos of all kinds, nested and after one another."""
    rows = [
        Row("nested", (5, 6, 7), (10, 11, 12, U, 13, U, U, 14, 15, END), "ceeueuukcc"),
        Row("lines", (5, 6), (10, NEWLINE, 11, 12, LINE, 13, NEWLINE, 14, U, 15, END), "cceeukcceukc"[:11]),
        Row("plain", (8, 9, 5, 6), (20, 21, 22, END), "cccc"),
        Row("from the start", (5,), (30, U, 31, U, 32, END), "eueukc"),
    ]
    return load_model(folder, None), rows


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("mask", ["errors", "none", "repeats"])
def test_packed_and_split_rows_have_the_same_loss_and_gradient(family: str, mask: str, tiny_models: Folders) -> None:
    model, rows = nested(str(tiny_models(family)))
    model.requires_grad_(True)
    sums = []
    for examples in (
        [rewind.pack(row, TABLE, mask) for row in rows],
        [example for row in rows for example in rewind.split(row, TABLE, mask)],
    ):
        model.zero_grad()
        loss = batch_loss(model, collate(examples))
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        sums.append((loss.item(), gradient.clone()))
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-6)
    assert (sums[0][1] - sums[1][1]).abs().max() < 1e-5 * sums[1][1].abs().max()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_survivors_of_a_packed_row_see_what_the_clean_row_sees(attention: str, tiny_models: Folders) -> None:
    model, rows = nested(str(tiny_models()))
    model.set_attn_implementation(attention)
    for row in rows:
        example = rewind.pack(row, TABLE, "none")
        survivors = resolve(row.ids, TABLE, {END}).visible_ids
        clean = row.prompt_ids + survivors
        with torch.no_grad():
            packed = model(**rewind.inputs(model, collate([example])), output_hidden_states=True).hidden_states
            alone = model(input_ids=torch.tensor([clean]), use_cache=False, output_hidden_states=True).hidden_states
        (end,) = [place for place, target, _ in example.labels() if target == END]
        path = [end]
        while example.below is not None and path[-1] > 0:
            path.append(example.below[path[-1]])
        places = list(reversed(path)) if example.below is not None else list(range(len(clean)))
        assert tuple(example.ids[place] for place in places) == clean
        assert len(packed) == len(alone) == 3
        for one, other in zip(packed, alone, strict=True):
            assert torch.allclose(one[0, places], other[0], atol=2e-6)


def test_a_model_that_looks_at_its_newest_tokens_only_gets_split_rows(tiny_models: Folders) -> None:
    model, rows = nested(str(tiny_models()))
    assert rewind.packs(model, rows, TABLE, 1e-4)
    assert not model.training
    windowed, _ = nested(str(tiny_models("mistral")))
    assert rewind.packs(windowed, rows, TABLE, 1e-4)  # its window of 4,096 tokens is longer than any row
    windowed.config.sliding_window = 4
    assert not rewind.packs(windowed, rows, TABLE, 1e-4)


def test_a_model_that_makes_its_own_positions_gets_split_rows(tiny_models: Folders) -> None:
    """Whatever the reason a packed row gives other logits: it is noticed by trying."""
    model, rows = nested(str(tiny_models()))
    forward = model.forward

    def own_positions(position_ids: torch.Tensor | None = None, **rest: object) -> object:
        return forward(**rest)

    model.forward = own_positions
    assert not rewind.packs(model, rows, TABLE, 1e-4)

    def no_mask(input_ids: torch.Tensor, use_cache: bool) -> object:
        return forward(input_ids=input_ids, use_cache=use_cache)

    model.forward = no_mask
    assert not rewind.packs(model, rows, TABLE, 1e-4)


def test_a_row_without_undo_is_not_split() -> None:
    row = Row("r", (1, 2), (10, 11, END), "ccc")
    (example,) = rewind.split(row, TABLE, "errors")
    assert rewind.pack(row, TABLE, "errors") == example
    plain = supervise(row, "errors")
    assert (example.id, example.ids, example.weights) == (plain.id, plain.ids, plain.weights)
    assert example.targets[1:] == plain.targets[1:]


def test_one_mistake_gives_two_rows() -> None:
    row = Row("r", (1,), (10, 11, U, 12, END), "ceukc")
    first, second = rewind.split(row, TABLE, "errors")
    assert {first.ids, second.ids} == {(1, 10, 11), (1, 10, 12)}
    assert second.id == "r#1"


@pytest.mark.parametrize("how", ["description", "mean", "words"])
@pytest.mark.parametrize("tie", [True, False])
def test_new_rows_start_without_noise_at_the_median_length(how: tokens.Init, tie: bool, tiny_models: Folders) -> None:
    folder = str(tiny_models(tie=tie))

    def rows() -> list[torch.Tensor]:
        model, tokenizer = load_model(folder, None), load_tokenizer(folder, None)
        table = undo_table(tokenizer, family_of("qwen3"), with_undo=True)
        (id,) = tokens.initialise(model, tokenizer, table, how)
        matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        used = [matrix[: len(tokenizer) - 1] for matrix in matrices]
        for matrix, others in zip(matrices, used, strict=True):
            assert matrix[id].norm() == pytest.approx(others.norm(dim=1).median().item(), rel=1e-5)
        assert torch.equal(used[0], load_model(folder, None).get_input_embeddings().weight[: len(tokenizer) - 1])
        return [matrix[id].clone() for matrix in matrices]

    first, second = rows(), rows()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(*first) == tie


def test_new_rows_are_the_same_at_every_load(tiny_models: Folders) -> None:
    models = [load_model(str(tiny_models(tie=False)), None, rows=500) for _ in range(2)]
    assert not grow(models[0], 500)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        first, second = (getattr(model, get)().weight for model in models)
        assert first.shape[0] == 500
        assert torch.equal(first, second)
