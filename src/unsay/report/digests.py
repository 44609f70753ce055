"""Hashes of what an experiment produced: its answers and its trained weights, not the settings it was asked with.

Two runs that gave the same answers and the same weights have the same hashes, whatever order the answers ended in and
however the tensors lie in their files; a single other token changes one.

    for line in lines(read.find(lab)):
        print(line.text)

Reads files only: safetensors is a length, a header in JSON and the bytes of the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unsay.errors import StoreError
from unsay.store import layout, read
from unsay.store.read import Entry

SHOWN = 32
"""Hexadecimal digits of a hash that are shown."""
UNREADABLE = "unreadable"
ADAPTER, MODEL = "adapter_model.safetensors", "model*.safetensors"
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Digests:
    """The sha256 of an experiment's answers and weights; None where it has none, or the training of another one.

    Weights that cannot be read are `UNREADABLE`.
    """

    folder: str
    answers: str | None
    weights: str | None

    @property
    def text(self) -> str:
        """One line, the same for the same results, so that two runs can be compared with `diff` or `grep`."""
        answers, weights = ((each or "-")[:SHOWN] for each in (self.answers, self.weights))
        return f"{self.folder} answers={answers} weights={weights}"


def lines(entries: Iterable[Entry]) -> list[Digests]:
    """Return the hashes of the completed experiments, by folder."""
    found = [digests(entry) for entry in entries if entry.record is not None and entry.record.status == "completed"]
    return sorted(found, key=lambda each: read.natural(each.folder))


def digests(entry: Entry) -> Digests:
    try:
        trained = weights(entry.folder / layout.TRAIN)
    except StoreError:  # a copy of a lab may have stand-ins for large files; its answers can be compared all the same
        trained = UNREADABLE
    return Digests(entry.relative, answers(entry.folder), trained)


def answers(folder: Path) -> str | None:
    """Hash key, sampled ids and visible text of every answer, sorted by key; None without traces."""
    found = {}
    for trace in read.traces(folder):
        key = json.dumps(trace.key.to_json())
        found[key] = json.dumps([trace.key.to_json(), list(trace.ids), trace.visible])
    if not found:
        return None
    digest = hashlib.sha256()
    for key in sorted(found):
        digest.update(found[key].encode() + b"\n")
    return digest.hexdigest()


def weights(folder: Path) -> str | None:
    """Hash the tensors of the adapter in a folder, or of the whole model there: name, type, shape and bytes of each.

    None where there are none. Raises StoreError for a file that is no whole safetensors file.
    """
    adapter = folder / ADAPTER
    files = [adapter] if adapter.is_file() else sorted(folder.glob(MODEL))
    tensors = sorted(tensor for file in files for tensor in _tensors(file))
    if not files:
        return None
    digest = hashlib.sha256()
    for name, described, sha256 in tensors:
        digest.update(json.dumps([name, described, sha256]).encode() + b"\n")
    return digest.hexdigest()


def _tensors(file: Path) -> list[tuple[str, str, str]]:
    """Return name, type with shape, and the sha256 of the bytes of every tensor of a file."""
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length))
            found = []
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                begin, end = tensor["data_offsets"]
                if not 0 <= begin <= end <= size - 8 - length:
                    raise ValueError(f"{name} ends at {end} of {size - 8 - length} bytes")
                stream.seek(8 + length + begin)
                described = json.dumps([tensor["dtype"], tensor["shape"]])
                found.append((name, described, _sha256(stream, end - begin)))
            return found
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"expected a safetensors file in {file}, got {error}; train again with --force") from error


def _sha256(stream: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0:
        part = stream.read(min(size, _AT_ONCE))
        if not part:
            raise ValueError("an end before that of its tensors")
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
