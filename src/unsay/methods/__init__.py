"""One file per kind of experiment, each told top to bottom. Methods do not know where they run.

The contract: a module `methods/<name>.py` holds one frozen dataclass with

    run(job, report) -> Result     prepare, train if it trains, evaluate; finished stages on disk are not done again

`report` takes `{"event": "stage", "stage": name}` at the start of a stage and
`{"event": "progress", "stage": name, "done": n, "total": n}` along the way.
"""

from __future__ import annotations

from typing import Protocol

from unsay.job import Job, Report, Result


class Method(Protocol):
    """What every module of this folder provides."""

    def run(self, job: Job, report: Report) -> Result: ...
