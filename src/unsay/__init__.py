"""The lab for language models that can take tokens back: train, decode, score and compare them.

    import unsay
    unsay.resolve([5, 6, 9, 7], table).visible_ids

Names are imported when they are first used, so that `import unsay` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsay.config import load as load_plan
    from unsay.errors import UnsayError
    from unsay.lab import Experiment, Lab, ScoredSample
    from unsay.records import ExperimentRecord, MetricValue, Sample, Trace
    from unsay.report.markdown import write_page
    from unsay.report.tables import differences, headline
    from unsay.store.read import find
    from unsay.undo import UndoTable, resolve, resolve_chat, resolve_many

__version__ = "0.1.0"

__all__ = [
    "Experiment",
    "ExperimentRecord",
    "Lab",
    "MetricValue",
    "Sample",
    "ScoredSample",
    "Trace",
    "UndoTable",
    "UnsayError",
    "__version__",
    "differences",
    "find",
    "headline",
    "load_plan",
    "resolve",
    "resolve_chat",
    "resolve_many",
    "write_page",
]

_PLACES = {
    "Experiment": ("unsay.lab", "Experiment"),
    "ExperimentRecord": ("unsay.records", "ExperimentRecord"),
    "Lab": ("unsay.lab", "Lab"),
    "MetricValue": ("unsay.records", "MetricValue"),
    "Sample": ("unsay.records", "Sample"),
    "ScoredSample": ("unsay.lab", "ScoredSample"),
    "Trace": ("unsay.records", "Trace"),
    "UndoTable": ("unsay.undo", "UndoTable"),
    "UnsayError": ("unsay.errors", "UnsayError"),
    "differences": ("unsay.report.tables", "differences"),
    "find": ("unsay.store.read", "find"),
    "headline": ("unsay.report.tables", "headline"),
    "load_plan": ("unsay.config", "load"),
    "resolve": ("unsay.undo", "resolve"),
    "resolve_chat": ("unsay.undo", "resolve_chat"),
    "resolve_many": ("unsay.undo", "resolve_many"),
    "write_page": ("unsay.report.markdown", "write_page"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
