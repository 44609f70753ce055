"""Finished prompts in parts that several processes answer, on one machine or many, each part by one at a time.

    parts = Shards(folder / layout.SHARDS)
    for part in parts.answered(parts.split(order, 4), hand, report, tell): ...
    python -m unsay.shard FOLDER          # a helper: answers whatever part nobody is at

A part is a folder with an order (what to answer, and how) and the traces so far. Whoever answers one claims it
(`unsay.store.claims`), so that a part whose process is gone is gone on with by the next one, and no item is answered
twice. Knows nothing about lm-eval or training: ids, generation settings and seeds are in the order. How many parts
there are changes nothing about an answer and is no part of any identity.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from unsay import engine, identity
from unsay.config import Model
from unsay.engine.server import ServerEngine
from unsay.errors import EvaluationError, LockedError, StoreError
from unsay.evaluate.engines import Engines
from unsay.evaluate.serving import engine_of
from unsay.evaluate.setup import Opened, open_model, weights_of
from unsay.job import Report
from unsay.prompts import Prompter
from unsay.records import SCHEMA, Beginning, Key, Trace
from unsay.settings import Decode
from unsay.store import claims, layout, read, write
from unsay.undo import UndoTable

LOOK_EVERY = 0.5
"""Seconds between two looks at what others have answered."""

Tell = Callable[[Trace], None]
"""Called with every answer as soon as it is known."""


@dataclass(frozen=True)
class Order:
    """What to answer, and how. `settings_hash` says which answers are those to this order and no other."""

    model: Model
    adapter: Path | None
    weights: str
    """Fingerprint of weights and adapter: other ones under the same name answer something else."""
    device: str
    dtype: str
    batch_size: int | None
    decode: Decode
    table: UndoTable
    end_ids: frozenset[int]
    pad_id: int
    settings_hash: str
    requests: tuple[engine.Request, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": asdict(self.model),
            "adapter": None if self.adapter is None else str(self.adapter),
            "weights": self.weights,
            "device": self.device,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "decode": asdict(self.decode),
            "table": self.table.to_json(),
            "end_ids": sorted(self.end_ids),
            "pad_id": self.pad_id,
            "settings_hash": self.settings_hash,
            "requests": [
                {"key": each.key.to_json(), "ids": list(each.prompt_ids), "seed": each.seed, "stop": list(each.stop)}
                | ({} if each.beginning is None else {"given": list(each.given), "beginning": asdict(each.beginning)})
                for each in self.requests
            ],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Order:
        stop = value["decode"]["stop"]
        return cls(
            model=Model(**value["model"]),
            adapter=Path(value["adapter"]) if value["adapter"] else None,
            weights=value["weights"],
            device=value["device"],
            dtype=value["dtype"],
            batch_size=value["batch_size"],
            decode=Decode(**{**value["decode"], "stop": None if stop is None else tuple(stop)}),
            table=UndoTable.from_json(value["table"]),
            end_ids=frozenset(value["end_ids"]),
            pad_id=value["pad_id"],
            settings_hash=value["settings_hash"],
            requests=tuple(
                engine.Request(
                    Key.from_json(each["key"]),
                    tuple(each["ids"]),
                    each["seed"],
                    tuple(each["stop"]),
                    given=tuple(each.get("given", ())),
                    beginning=Beginning(**each["beginning"]) if "beginning" in each else None,
                )
                for each in value["requests"]
            ),
        )

    def options(self, opened: Opened) -> engine.Options:
        return engine.Options(
            decode=self.decode,
            table=self.table,
            end_ids=self.end_ids,
            text_of=opened.visible_text,
            pad_id=self.pad_id,
            slots=self.batch_size,
        )

    def open(self) -> Opened:
        """Open the model; EvaluationError where other weights are found here than the order was made for."""
        opened = open_model(self.model, device=self.device, dtype=self.dtype, adapter=self.adapter)
        if opened.weights != self.weights:
            raise EvaluationError(
                f"expected the weights of {self.model.name} as where the prompts were made ({self.weights}), got "
                f"others on {claims.hostname()} ({opened.weights}); give every machine the same {self.model.path}"
            )
        return opened


def trace_of(finished: engine.Finished, prompter: Prompter, settings_hash: str) -> Trace:
    """Return what is written down of a finished answer, digit for digit: scores are the same after a resume."""
    return Trace(
        key=finished.request.key,
        prompt_sha256=identity.sha256_of(list(finished.request.prompt_ids)),
        eval_hash=settings_hash,
        seed=finished.request.seed,
        ids=finished.ids,
        pieces=tuple(prompter.pieces(finished.ids)),
        visible_ids=finished.visible_ids,
        visible=finished.visible,
        finish_reason=finished.finish_reason,
        counts=finished.resolution.counts,
        logprobs=_written(finished.logprobs),
        sampler_logprobs=_written(finished.sampler_logprobs),
        stop_in_raw=finished.stop_in_raw,
        beginning=finished.request.beginning,
        undo_logprobs=_written(finished.undo_logprobs),
    )


def _written(logprobs: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in logprobs)


@dataclass(frozen=True)
class Part:
    """The folder of one part."""

    folder: Path

    @cached_property
    def order(self) -> Order:
        return Order.from_json(read.read_json(self.folder / layout.ORDER))

    def traces(self) -> dict[Key, Trace]:
        """Return the answers so far that are answers to this order, in the order written."""
        return {trace.key: trace for trace in read.traces(self.folder) if self.wants(trace)}

    def wants(self, trace: Trace) -> bool:
        """Say whether an answer is one to this order."""
        asked = self._asked.get(trace.key)
        return trace.eval_hash == self.order.settings_hash and asked == (trace.prompt_sha256, trace.seed)

    @cached_property
    def _asked(self) -> dict[Key, tuple[str, int]]:
        return {each.key: (identity.sha256_of(list(each.prompt_ids)), each.seed) for each in self.order.requests}

    def is_free(self) -> bool:
        """Say whether nobody is at it."""
        try:
            return claims.in_the_way(self.folder) is None
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove a part whose answers are written down elsewhere; logs, and what could not be read, are kept."""
        results = self.folder.parent.parent
        write.Journal(self.folder / layout.TRACES).close()  # moves a torn tail aside
        torn = self.folder / (layout.TRACES + layout.TORN_SUFFIX)
        if torn.exists():
            with (results / torn.name).open("ab") as file:
                file.write(torn.read_bytes())
        logs = layout.logs(self.folder)
        if logs.is_dir():
            layout.logs(results).mkdir(exist_ok=True)
            for log in logs.iterdir():
                log.rename(layout.logs(results) / log.name)
        shutil.rmtree(self.folder)
        with suppress(OSError):  # the last one takes the folder along
            self.folder.parent.rmdir()


class Hand:
    """Answers parts, one after the other, with weights that are loaded once."""

    def __init__(self, opened: Opened, options: engine.Options, *, surroundings: dict[str, Any]) -> None:
        self._opened = opened
        self._options = options
        self._surroundings = surroundings
        self._held = ExitStack()
        self.generator: engine.Engine | ServerEngine | None = None

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def answer(self, part: Part, tell: Tell) -> None:
        """Answer what is missing of a part; LockedError where another process is at it."""
        with write.lock(part.folder):
            write.clear_unfinished(part.folder)
            done = part.traces()
            missing = [each for each in part.order.requests if each.key not in done]
            if not missing:
                return
            if self.generator is None:
                self.generator = self._held.enter_context(engine_of(self._opened, self._options, part.folder))
            engines = Engines(part.folder, part.order.settings_hash, asked=self._surroundings)
            first = len(done)
            with write.Journal(part.folder / layout.TRACES) as journal:
                for finished in self.generator.generate(missing):
                    trace = trace_of(finished, self._opened.prompter, part.order.settings_hash)
                    if len(done) == first:
                        engines.begin(first, self.generator.facts)
                    journal.append(trace.to_json())
                    done[trace.key] = trace
                    tell(trace)
            engines.begin(first, self.generator.facts)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Let this process compute with so many threads meanwhile, as those do that help it; None: as it does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Shards:
    """The parts below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def parts(self) -> list[Part]:
        return [Part(path.parent) for path in sorted(self.folder.glob(f"*/{layout.ORDER}"))]

    def split(self, order: Order, count: int) -> list[Part]:
        """Write down an order in parts of about the same size."""
        count = min(count, len(order.requests))
        run = os.urandom(3).hex()
        made = []
        for number in range(count):
            folder = self.folder / f"{number + 1}-of-{count}-{run}"
            part = replace(order, requests=order.requests[number::count])
            write.write_bytes(folder / layout.ORDER, write.json_line(part.to_json()))
            made.append(Part(folder))
        return made

    def left(self, settings_hash: str) -> tuple[list[Part], list[Part], list[Part]]:
        """Return what an earlier run left: parts nobody is at, parts somebody still is at, and parts of other orders.

        LockedError where somebody is at one of another order.
        """
        free: list[Part] = []
        taken: list[Part] = []
        other: list[Part] = []
        for part in self.parts():
            is_free = part.is_free()
            if part.order.settings_hash != settings_hash:
                if not is_free:
                    raise LockedError(
                        f"a process that an earlier run started still answers {part.folder} with other settings. It "
                        "stops when it finds that run gone; run the same command again then."
                    )
                other.append(part)
            else:
                (free if is_free else taken).append(part)
        return free, taken, other

    def answered(self, parts: Sequence[Part], hand: Hand | None, report: Report, tell: Tell) -> Iterator[Part]:
        """Yield every part once it is answered, by helpers or, where there is one, by this process's own hand.

        Helpers are asked for by an event, which an executor may heed or not. Without a hand somebody must; what
        `report` raises on the event `waiting` ends that.
        """
        waiting, watch = list(parts), _Watch(tell)
        report({"event": "shards", "folder": str(self.folder), "helpers": len(parts) - (hand is not None)})
        while waiting:
            done = [part for part in waiting if watch.is_done(part)]
            yield from done
            waiting = [part for part in waiting if part not in done]
            mine = next((part for part in waiting if hand is not None and part.is_free()), None)
            if mine is None:
                if waiting:
                    if hand is None:
                        report({"event": "waiting"})
                    time.sleep(LOOK_EVERY)
                continue
            assert hand is not None
            with suppress(LockedError):  # somebody was faster
                hand.answer(mine, partial(watch.look, waiting))


class _Watch:
    """What is known of the parts that others answer."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: set[Key] = set()
        self._read_up_to: dict[Part, int] = {}
        self._looked = 0.0

    def look(self, parts: Sequence[Part], trace: Trace) -> None:
        """Tell of an answer of this process's own, and, now and then, of those of others."""
        self._once(trace)
        if time.monotonic() - self._looked >= LOOK_EVERY:
            for part in parts:
                self._read(part)
            self._looked = time.monotonic()

    def is_done(self, part: Part) -> bool:
        """Say whether a part has all its answers and its process has let go of it."""
        self._read(part)
        return self._told.issuperset(each.key for each in part.order.requests) and part.is_free()

    def _read(self, part: Part) -> None:
        path = part.folder / layout.TRACES
        start = self._read_up_to.get(part, 0)
        if not path.exists() or path.stat().st_size <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read_up_to[part] = start + len(complete)
        for line in complete.splitlines(keepends=True):
            if write.is_sealed(line):
                trace = Trace.from_json(json.loads(line))
                if part.wants(trace):
                    self._once(trace)

    def _once(self, trace: Trace) -> None:
        if trace.key not in self._told:
            self._told.add(trace.key)
            self._tell(trace)


def help_with(folder: Path, report: Report) -> int:
    """Answer the parts below a folder that nobody is at, until none is left; return how many this process answered.

    StoreError where there is nothing at all, as on a machine that does not see the folder.
    """
    shards, answered = Shards(folder), 0
    if not folder.parent.is_dir():
        raise StoreError(f"expected a result folder {folder.parent}, got none on {claims.hostname()}; is it shared?")
    count = 0

    def tell(_: Trace) -> None:
        nonlocal count
        count += 1
        report({"event": "answers", "done": count})

    with ExitStack() as held:
        hand: Hand | None = None
        settings = ""
        while True:
            part = next((each for each in shards.parts() if _is_open(each, settings)), None)
            if part is None:
                return answered
            if hand is None:
                opened, settings = part.order.open(), part.order.settings_hash
                around = surroundings(opened, part.order.batch_size)
                hand = held.enter_context(Hand(opened, part.order.options(opened), surroundings=around))
            with suppress(LockedError, FileNotFoundError):
                hand.answer(part, tell)
                answered += 1


def _is_open(part: Part, settings_hash: str) -> bool:
    """Say whether a part wants answers that nobody is writing; with a hash, of those settings only."""
    try:
        if settings_hash not in ("", part.order.settings_hash) or not part.is_free():
            return False
        return len(part.traces()) < len(part.order.requests)
    except (FileNotFoundError, StoreError):  # it is being removed: its answers are where they belong
        return False


def order_of(
    opened: Opened,
    options: engine.Options,
    requests: Sequence[engine.Request],
    *,
    settings_hash: str,
    device: str | None = None,
    dtype: str | None = None,
) -> Order:
    """Return the order to answer requests with an opened model; `device` and `dtype` are its own unless said."""
    assert opened.model is not None
    return Order(
        model=opened.model,
        adapter=opened.adapter,
        weights=weights_of(opened.model, opened.adapter, opened.facts.get("revision")),
        device=device or opened.device,
        dtype=dtype or opened.dtype,
        batch_size=options.slots,
        decode=options.decode,
        table=options.table,
        end_ids=options.end_ids,
        pad_id=options.pad_id,
        settings_hash=settings_hash,
        requests=tuple(requests),
    )


def surroundings(opened: Opened, batch_size: int | None) -> dict[str, Any]:
    """Return what may change the last digits of a number, besides what an engine says of itself."""
    import torch
    import transformers

    if opened.backend is not None:
        return {"batch_size": batch_size}
    on_gpu = opened.device.startswith("cuda")
    processor = torch.cuda.get_device_name() if on_gpu else torch.backends.cpu.get_cpu_capability()
    libraries = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
    return {"batch_size": batch_size, "processor": processor, "libraries": libraries}
