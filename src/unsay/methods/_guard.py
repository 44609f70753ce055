"""What a training must not have seen: the evaluation splits of every dataset that its experiment file evaluates on.

    guard = guard_of(job, source, examples)
    build(examples, …, leaks=guard.leaks)

An evaluation split of another dataset counts for what the rows are (`leaked`, in the data hash) only where it holds
one of the training questions: an experiment more in the file changes nothing as long as it shares nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unsay.config import Dataset
from unsay.data.leaks import Leaks
from unsay.data.source import Source, hub_lines, open_source, read_jsonl
from unsay.errors import DataError
from unsay.evaluate.lm_eval_tasks import asked, load_task
from unsay.job import Job
from unsay.records import Example

_EVALUATED = ("dev", "test")


@dataclass(frozen=True)
class Guard:
    """What training examples are compared with. `leaks` is handed to whoever builds the rows."""

    leaks: tuple[Leaks, ...]
    leaked: tuple[str, ...] = ()
    """Ids of the training examples that only another dataset's evaluation split holds, sorted."""
    compared: dict[str, int] = field(default_factory=dict)
    """Evaluation items per dataset."""
    not_compared: dict[str, str] = field(default_factory=dict)
    """Datasets whose evaluation split could not be read, and why."""

    def warnings(self) -> tuple[str, ...]:
        return tuple(
            f"training rows were not compared with the evaluation split of {name}: {reason}"
            for name, reason in self.not_compared.items()
        )


def guard_of(job: Job, source: Source, examples: Sequence[Example]) -> Guard:
    """Read every evaluation split of a job's file.

    The own dataset's must be there; another dataset's that cannot be read (no network, a file that does not fit) is
    the trouble of the experiment that uses it, and is named here.
    """
    own, others = Leaks(), Leaks()
    compared = {source.name: own.learn(_own_format(source), in_a_row=not source.generated)}
    missed: dict[str, str] = {}
    for dataset in job.evaluated:
        try:
            compared[dataset.name] = _learn(others, dataset, job)
        except Exception as error:  # whatever a file, the hub or a task's own code does
            missed[dataset.name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}"
            )
    if not any(count for name, count in compared.items() if name != source.name):
        return Guard((own,), (), compared, missed)
    leaked = [each.id for each in examples if others.found(each) is not None and own.found(each) is None]
    return Guard((own, others), tuple(sorted(leaked)), compared, missed)


def _learn(leaks: Leaks, dataset: Dataset, job: Job) -> int:
    source = open_source(dataset, job.output_dir)
    items = _own_format(source) if source.format is not None else _of_a_task(source)
    # Generated questions share their sentences, not their numbers: rows of words would refuse what is no leak.
    return leaks.learn(items, in_a_row=not source.generated)


def _own_format(source: Source) -> Iterator[Example]:
    return (example for split in _EVALUATED for example in source.examples(split))


def _of_a_task(source: Source) -> Iterator[Example]:
    """Yield the items of an lm-eval task, whose lines have columns of its own.

    What a column holds that the task shows is a question; everything else in the line is its answer.
    """
    config = load_task(str(source.task))
    for number, line in _lines_of_a_task(source, config):
        id = f"{source.name}/test/{number}"
        texts = list(_texts(line.values()))
        shown = asked(config, line) or ""
        yield Example(id, shown, "\n".join(text for text in texts if text not in shown))
        yield from (Example(id, text, "") for text in texts if text.strip() and text in shown)


def _lines_of_a_task(source: Source, config: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    if source.files:
        return read_jsonl(source.files["test"])
    path, split = config.get("dataset_path"), config.get("test_split") or config.get("validation_split")
    if not path or not split or config.get("custom_dataset") is not None:
        raise DataError(f"task {source.task!r} makes its own data, which cannot be read here")
    return hub_lines(str(path), str(split), config.get("dataset_name"))


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)
