"""The loss in chunks equals the loss of the whole logits, and is taken only where a model hands its logits on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma3TextConfig

from unsay.loading import load_model
from unsay.records import Row
from unsay.train import loss, rewind
from unsay.train.collate import Batch, collate, supervise

Folders = Callable[..., Path]

ROWS = [
    Row("a", (5, 6, 7), (10, 11, 12, 13, 14, 15, 1), "ccccccc"),
    Row("b", (5, 6), (10, 16, 17, 1), "cccc"),
    Row("c", (5, 6, 8, 9, 5, 6), (10, 1), "cc"),
]
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def batch(weights: tuple[float, ...] = (1.0,)) -> Batch:
    made = collate([supervise(row, "errors") for row in ROWS])
    made.weights[:] = torch.tensor([weights[at % len(weights)] for at in range(len(made.weights))])
    return made


def expected(model: Any, given: Batch) -> torch.Tensor:
    """Return the loss of every position's logits, the supervised ones picked afterwards."""
    logits = model(**rewind.inputs(model, given)).logits[given.chosen].float()
    losses = torch.nn.functional.cross_entropy(given.at_labels(logits), given.targets, reduction="none")
    return (losses * given.weights).sum()


def gradients(model: Any, value: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    value.backward()
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return found.clone()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("trained", ["everything", "all but the output layer"])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "mistral", "gemma3", "gpt2"])
def test_chunks_give_the_loss_and_the_gradient_of_the_whole(
    family: str, trained: str, chunk: int, tiny_models: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    model: Any = load_model(str(tiny_models(family)), None)
    model.requires_grad_(True)
    if trained != "everything":
        model.get_output_embeddings().requires_grad_(False)
    given = batch((1.0, 0.5))
    assert loss.hands_on(model)
    monkeypatch.setattr(loss, "_whole", None)
    ours, theirs = loss.batch_loss(model, given), expected(model, given)
    assert torch.allclose(ours, theirs, rtol=1e-6)
    assert_close(gradients(model, ours), gradients(model, theirs))


@pytest.mark.parametrize("config", [Gemma3TextConfig(**SHAPE, final_logit_softcapping=0.5), CohereConfig(**SHAPE)])
def test_a_model_that_changes_its_logits_computes_them_itself(config: Any) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    given = batch()
    assert not loss.hands_on(model)
    ours, theirs = loss.batch_loss(model, given), expected(model, given)
    assert torch.allclose(ours, theirs, rtol=1e-6)
    assert_close(gradients(model, ours), gradients(model, theirs))


def test_many_different_weights_are_not_summed_one_by_one(
    tiny_models: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load_model(str(tiny_models()), None)
    given = batch(tuple(0.1 * number for number in range(1, 14)))
    monkeypatch.setattr(loss, "_states", None)
    assert torch.allclose(loss.batch_loss(model, given), expected(model, given), rtol=1e-6)


def test_a_batch_without_labels_has_a_loss_that_can_be_sent_back(tiny_models: Folders) -> None:
    model: Any = load_model(str(tiny_models()), None)
    model.requires_grad_(True)
    nothing = collate([supervise(Row("x", (5, 6, 7), (10, 11), "ee"), "errors")])
    value = loss.batch_loss(model, nothing)
    assert float(value) == 0
    value.backward()


def test_asking_a_model_draws_no_dropout(tiny_models: Folders) -> None:
    model: Any = load_model(str(tiny_models("gpt2")), None)
    model.train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert loss.hands_on(model)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        first, second = (float(loss.batch_loss(model, batch())) for _ in range(2))
    assert first != second
