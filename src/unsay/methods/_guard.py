"""What a training must not have seen: the evaluation splits of every dataset that its experiment file evaluates on.

    guard = guard_of(job, source, examples)
    guard.check(job)
    build(examples, …, leaks=guard.leaks)

An evaluation split of another dataset counts for what the rows are (`leaked`, in the data hash) only where it holds
one of the training questions: an experiment more in the file changes nothing as long as it shares nothing.

What was found is kept with the rows (`memory`), so that a split that can no longer be read takes out the same rows as
before. Without that, an unread split would let its questions into the training: `check` refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from unsay.data.leaks import Leaks
from unsay.data.source import Source, hub_lines, open_source, read_jsonl
from unsay.errors import DataError
from unsay.evaluate.lm_eval_tasks import asked, load_task
from unsay.identity import sha256_of
from unsay.job import Job
from unsay.records import Example
from unsay.redaction import redact
from unsay.store import layout, read

MEMORY = "comparisons"
"""What the manifest calls `Guard.memory`."""

_EVALUATED = ("dev", "test")

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Guard:
    """What training examples are compared with. `leaks` is handed to whoever builds the rows."""

    leaks: tuple[Leaks, ...]
    leaked: tuple[str, ...] = ()
    """Ids of the training examples that only another dataset's evaluation split holds, sorted."""
    compared: dict[str, int] = field(default_factory=dict)
    """Evaluation items per dataset."""
    not_read: dict[str, str] = field(default_factory=dict)
    """Datasets whose evaluation split could not be read, and why; the earlier comparison counts."""
    not_compared: dict[str, str] = field(default_factory=dict)
    """Those that these training examples were never compared with."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What a later guard needs to know where a split cannot be read any more."""

    def check(self, job: Job) -> None:
        """Raise DataError where training could let in what is evaluated on."""
        if self.not_compared and not job.rehearsal:
            unread = "; ".join(f"{name}: {reason}" for name, reason in self.not_compared.items())
            raise DataError(
                f"{job.experiment.folder}: expected to compare the training questions with everything that the file "
                f"evaluates on, got no evaluation items of {unread}. Make them readable, or move the experiments that "
                "are evaluated on them into a file of their own."
            )

    def warnings(self) -> tuple[str, ...]:
        return (
            *(
                f"the evaluation split of {name} could not be read; its earlier comparison with the training rows "
                f"counts: {reason}"
                for name, reason in self.not_read.items()
            ),
            *(
                f"training rows were not compared with the evaluation split of {name}, and nothing new is trained "
                f"before it can be read: {reason}"
                for name, reason in self.not_compared.items()
            ),
        )


def guard_of(job: Job, source: Source, examples: Sequence[Example]) -> Guard:
    """Read every evaluation split of a job's file.

    The own dataset's must be there. For another dataset's that cannot be read (no network, a file that does not fit)
    counts what was found when the rows that are there were built from the same examples; `check` refuses the rest.
    """
    own = Leaks()
    compared = {source.name: _learn(own, source)}
    before = _remembered(job, examples)
    others: list[Leaks] = []
    not_read: dict[str, str] = {}
    not_compared: dict[str, str] = {}
    memory: dict[str, Any] = {}
    for dataset in job.evaluated:
        name, leaks, definition = dataset.name, Leaks(), sha256_of(dataclasses.asdict(dataset))
        try:
            compared[name] = _learn(leaks, open_source(dataset, job.output_dir))
        except Exception as error:  # whatever a file, the hub or a task's own code does
            said = redact(str(error))
            reason = f"{type(error).__name__}: {said.splitlines()[0] if said else 'no reason'}"
            known = before.get(name)
            if known is None or known["dataset"] != definition:
                not_compared[name] = reason
                continue
            not_read[name] = f"{reason} (compared earlier)"
            compared[name], found = known["items"], known["found"]
            leaks = Leaks()  # not what was learnt until reading failed
            leaks.remember(found)
        else:
            found = {each.id: what for each in examples if (what := leaks.found(each)) is not None}
        memory[name] = {"dataset": definition, "items": compared[name], "found": found}
        if found:
            others.append(leaks)
    held = {id for known in memory.values() for id in known["found"]}
    leaked = sorted(each.id for each in examples if each.id in held and own.found(each) is None)
    remembered = {"examples": _fingerprint(examples), "with": memory}
    return Guard((own, *others), tuple(leaked), compared, not_read, not_compared, remembered)


def _remembered(job: Job, examples: Sequence[Example]) -> Mapping[str, Any]:
    """Return what the rows that are there say of each dataset, if they were made from these examples."""
    path = layout.data(job.train_folder) / layout.MANIFEST
    memory = read.read_json(path)["facts"].get(MEMORY) if path.exists() else None
    if memory is None or memory["examples"] != _fingerprint(examples):
        return {}
    return dict(memory["with"])


def _fingerprint(examples: Sequence[Example]) -> str:
    return sha256_of([[each.id, each.question, each.answer] for each in examples])


def _learn(leaks: Leaks, source: Source) -> int:
    # Generated questions share their sentences, not their numbers: rows of words would refuse what is no leak.
    return leaks.learn(_items(source), in_a_row=not source.generated)


def _items(source: Source) -> Iterable[Example]:
    """Yield what is evaluated on, and the dev split; raise DataError where there is nothing."""
    if source.format is None:
        return _of_a_task(source)
    own = (example for split in _EVALUATED for example in source.examples(split))
    if source.hub:  # a task says which split of it is scored
        return chain(own, _of_a_task(source))
    return _some(own, source, "dev or test")


def _of_a_task(source: Source) -> Iterator[Example]:
    """Yield the items of an lm-eval task, whose lines have columns of its own.

    What a column holds that the task shows is a question; everything else in the line is its answer.
    """
    config = load_task(str(source.task))
    split = str(config.get("test_split") or config.get("validation_split"))
    for number, line in _some(_lines_of_a_task(source, config), source, split):
        id = f"{source.name}/{'test' if source.files else split}/{number}"
        texts = list(_texts(line.values()))
        shown = asked(config, line) or ""
        yield Example(id, shown, "\n".join(text for text in texts if text not in shown))
        yield from (Example(id, text, "") for text in texts if text.strip() and text in shown)
        if source.format is not None:
            yield source.format.example(line, id)


def _lines_of_a_task(source: Source, config: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    if source.files:
        return read_jsonl(source.files["test"])
    path, split = source.hub or config.get("dataset_path"), config.get("test_split") or config.get("validation_split")
    if not path or not split or config.get("custom_dataset") is not None:
        raise DataError(f"task {source.task!r} makes its own data, which cannot be read here")
    own = path == config.get("dataset_path")  # a task that is pointed at other data loses the name of its own
    files = (config.get("dataset_kwargs") or {}).get("data_files") if own else None
    where = (str(path), str(split), config.get("dataset_name") if own else None)
    return hub_lines(*where, files) if files else hub_lines(*where)


def _some(items: Iterable[_Item], source: Source, split: str) -> Iterator[_Item]:
    nothing = True
    for item in items:
        nothing = False
        yield item
    if nothing:
        raise DataError(f"dataset {source.name!r}: expected evaluation items in split {split}, got none")


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)
