"""A training process in whose group the last one has room for one row: what the tests start in its place."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from unsay.methods import _training

forward = Qwen3ForCausalLM.forward


def short(self: Any, input_ids: torch.Tensor, **rest: Any) -> Any:
    if input_ids.shape[0] > 1 and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return forward(self, input_ids=input_ids, **rest)


if __name__ == "__main__":
    Qwen3ForCausalLM.forward = short
    _training.main()
