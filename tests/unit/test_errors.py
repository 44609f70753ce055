"""What may pass is tried again; a mistake is not."""

from __future__ import annotations

import errno

import pytest
import torch

from unsay.errors import ConfigError, DataError, ModelError, ProcessLostError, ServerError, StoreError, may_pass


def caused(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except type(error) as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (used: 1 GiB)"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError("too slow"),
        ServerError("the server is gone"),
        ProcessLostError("process 1 was killed"),
        caused(StoreError("cannot write"), OSError(errno.ENOSPC, "No space left on device")),
        caused(ModelError("cannot reach the hub"), ConnectionError("no route")),
    ],
)
def test_what_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("wrong"),
        DataError("wrong"),
        ValueError("a bug"),
        FileNotFoundError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "not yours"),
        OSError("this is not a model"),  # as transformers says it
        caused(StoreError("cannot write"), PermissionError(errno.EACCES, "not yours")),
        caused(ModelError("no model"), OSError("this is not a model")),
    ],
)
def test_what_does_not_pass(error: Exception) -> None:
    assert not may_pass(error)
