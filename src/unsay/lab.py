"""A lab folder from Python: its experiments, what each found, and its samples one by one or as a pandas frame.

    import unsay

    for one in unsay.Lab("outputs").experiments(model="qwen3*", status="completed"):
        print(one.name, one.metrics["exact_match_strict"].value)

Needs neither torch nor a GPU, and changes nothing in the lab but the index that makes listing fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsay.errors import StoreError, UnsayError
from unsay.records import Counts, ExperimentRecord, MetricValue, Trace
from unsay.report import costs
from unsay.store import layout, read
from unsay.store.index import Filter, Index, Summary

if TYPE_CHECKING:
    from pandas import DataFrame

    from unsay.store.read import Entry

Names = str | Iterable[str]
"""A name or several; `*` stands for anything, upper and lower case are alike."""


class Lab:
    """The experiments of a lab folder (`output_dir` of an experiment file); StoreError where there is none."""

    def __init__(self, path: str | Path = "outputs") -> None:
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise StoreError(f"there is no lab folder {self.path}. `unsay run FILE` makes one.")
        self._index = Index(self.path)

    def experiments(
        self,
        *,
        model: Names = (),
        dataset: Names = (),
        method: Names = (),
        config: Names = (),
        status: Names = (),
        search: str = "",
        archived: bool | None = False,
    ) -> list[Experiment]:
        """Return the experiments as they are on disk now, limited runs among them, in the order of the page.

        `search` is a part of the id, the folder or the note. Archived ones are left out; None takes them along, True
        takes only them. Nothing but the index is read before something of an experiment is asked for.
        """
        wanted = Filter(
            _several(model), _several(dataset), _several(method), _several(config), _several(status), search, archived
        )
        return [Experiment(one) for one in sorted(filter(wanted, self._index.refresh()), key=read.order)]

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self.experiments())

    def experiment(self, name: str) -> Experiment:
        """Return the experiment with this id or folder, archived or not; StoreError, with the nearest, for none."""
        return Experiment(read.pick(self._index.refresh(), name))

    def frame(self, **wanted: Any) -> DataFrame:
        """Return one row per experiment, with the values of its metrics; `wanted` is what `experiments` takes."""
        pandas = _pandas()
        rows = []
        for one in self.experiments(**wanted):
            names = ("id", "folder", "model", "dataset", "method", "config", "seed", "status", "limit", "notes")
            values = {name: metric.value for name, metric in one.metrics.items()}
            rows.append({name: str(getattr(one, name)) if name == "folder" else getattr(one, name) for name in names})
            rows[-1] |= values
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Lab({str(self.path)!r})"


@dataclass(frozen=True)
class ScoredSample:
    """One item of an experiment: what was asked and answered, and what every metric gave the answer (0 to 100).

    `predict` is the visible text. `label` is None and `scores` is empty while an experiment is not finished;
    `finish_reason` and `counts` are None where there is no trace, as in what other tools made.
    """

    item: str
    prompt: str | None
    label: str | None
    predict: str
    scores: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str | None = None
    counts: Counts | None = None


class Experiment:
    """One experiment folder, or one `limit_<n>` folder. What is in a list is there at once, files are read when asked.

    `id` is empty and `name` the folder until there is an id; `limit` is None for a whole run.
    """

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self.folder = summary.folder
        self.id = summary.id
        self.name = summary.name
        self.model = summary.model
        self.dataset = summary.dataset
        self.method = summary.method
        self.config = summary.config
        self.seed = summary.seed
        self.status = summary.status
        self.limit = summary.limit
        self.notes = summary.notes
        self.archived = summary.archived

    @cached_property
    def _entry(self) -> Entry:
        return read.entry(self._summary.lab, self._summary.relative)

    @property
    def record(self) -> ExperimentRecord:
        """Everything in experiment.json: settings, attempts, versions, hashes; StoreError where it cannot be read."""
        if self._entry.record is None:
            raise StoreError(self._entry.problem or f"{self.folder / layout.EXPERIMENT} cannot be read")
        return self._entry.record

    @cached_property
    def metrics(self) -> dict[str, MetricValue]:
        """Every metric by its name, on the scale of 0 to 100; empty while the experiment is not finished."""
        return read.metrics(self.folder) if self.status == "completed" else {}

    @property
    def took(self) -> dict[str, Any] | None:
        """Seconds, tokens, GPU seconds, energy and memory, per stage and in total; None before the first attempt."""
        return costs.of(self._entry)

    def samples(self) -> Iterator[ScoredSample]:
        """Yield every item in the order of the data set; of an unfinished experiment those that are answered."""
        if self.status != "completed":
            yield from self._so_far()
            return
        ends = {str(trace.key.doc_id): (trace.finish_reason, trace.counts) for trace in read.traces(self.folder)}
        for at, (line, scored) in enumerate(zip_longest(read.predictions(self.folder), read.scores(self.folder))):
            item = scored.item if scored is not None else str(at)
            texts = {key: str(value) for key, value in (line or {}).items() if value is not None}
            scores = scored.scores if scored is not None else {}
            known = (texts.get("prompt"), texts.get("label"), texts.get("predict", ""), scores)
            yield ScoredSample(item, *known, *ends.get(item, (None, None)))

    def _so_far(self) -> Iterator[ScoredSample]:
        traces = {trace.key: trace for trace in read.traces(self.folder)}
        for prompt in read.prompts(self.folder):
            trace = traces.get(prompt.key)
            if trace is not None:
                item, ended = str(trace.key.doc_id), (trace.finish_reason, trace.counts)
                yield ScoredSample(item, prompt.text, None, trace.visible, {}, *ended)

    def traces(self) -> Iterator[Trace]:
        """Yield every sampled token of every answer, in the order they were finished."""
        return read.traces(self.folder)

    def frame(self) -> DataFrame:
        """Return the samples as a pandas frame: a row per item, a column per score and per count of the trace."""
        pandas = _pandas()
        rows = []
        for sample in self.samples():
            row = {key: value for key, value in asdict(sample).items() if key not in ("scores", "counts")}
            counts = {} if sample.counts is None else asdict(sample.counts)
            rows.append(row | {name: counts[name] for name in _COUNTED if name in counts} | dict(sample.scores))
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<Experiment {self.name}, {self.status}: {self.model} on {self.dataset}, {self.method} {self.config}>"


_COUNTED = ("sampled", "survivors", "popped", "undos", "underflows", "episodes", "first_undo")


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise UnsayError(
            "expected pandas for a frame, and it is not installed. Install it: pip install pandas"
        ) from error
    return pandas
