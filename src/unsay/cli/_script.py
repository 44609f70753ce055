"""The batch script of `unsay run --print-script`: for a scheduler that unsay does not submit to."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unsay import catalog
from unsay.executors import Queue
from unsay.runner import Options, job_of, known_id

if TYPE_CHECKING:
    import typer

    from unsay.config import Experiment, Plan

_NOT_REPEATED = (
    "context", "file", "ids", "executor", "option", "wait", "print_script", "dry_run", "as_json", "output_dir"
)  # fmt: skip
_DEFAULT = "slurm"
"""Whose lines the script has where another executor prints none: any other scheduler takes them for comments."""


def script(plan: Plan, chosen: Sequence[Experiment], options: Options, context: typer.Context) -> str:
    """Return a script whose tasks each run one experiment, together with what it cannot run without."""
    executor = options.placement.executor()
    if not isinstance(executor, Queue):
        executor = catalog.plugin("executors", _DEFAULT)()
    assert isinstance(executor, Queue)
    python = shlex.split(getattr(executor, "python", None) or shlex.quote(sys.executable))
    begin = [*python, "-m", "unsay", "run", str(plan.file)]
    end = ["--executor", "local", "--output-dir", str(plan.output_dir), *_repeated(context)]
    return executor.script([[*begin, *names, *end] for names in _tasks(plan, chosen, options)], plan.output_dir)


def _tasks(plan: Plan, chosen: Sequence[Experiment], options: Options) -> list[list[str]]:
    """Return the names of experiments, together in a list where one writes what another one uses; in file order."""
    tasks: list[list[str]] = []
    owners: dict[Path, list[str]] = {}
    for experiment in chosen:
        job = job_of(plan, experiment, options)
        folders = (*job.written_folders, *job.read_folders)
        before = [task for task in tasks if any(owners.get(folder) is task for folder in folders)]
        task = [name for each in before for name in each]
        task.append(known_id(plan.output_dir, experiment) or experiment.folder)
        tasks = [*(each for each in tasks if all(each is not other for other in before)), task]
        for folder, owner in owners.items():
            if any(owner is each for each in before):
                owners[folder] = task
        owners |= dict.fromkeys(job.written_folders, task)
    return tasks


def _repeated(context: typer.Context) -> list[str]:
    """Return the options of this command line that each task gets, too."""
    words: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in _NOT_REPEATED or value in (None, False, parameter.get_default(context)):
            continue
        words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(getattr(value, "value", value))]
    return words
