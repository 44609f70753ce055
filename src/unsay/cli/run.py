"""`unsay run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    file: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids or folders to run; all when none is given.")] = None,
    executor: Annotated[
        str, typer.Option(help="Where to run: local (a process each) or inline (this process).")
    ] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate only the first N items; kept apart from full results.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what is finished; the old result is kept aside.")
    ] = False,
    output_dir: Annotated[Path | None, typer.Option(help="The lab folder, instead of the file's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Answers generated at a time.", min=1)] = 32,
    as_json: _lab.Json = False,
) -> None:
    """Run the experiments of a file, skipping what is finished."""
    from dataclasses import replace

    from unsay import config, preflight, runner
    from unsay.cli._running import run_and_show, show_plan

    plan = config.load(file, output_dir=output_dir)
    chosen = runner.choose(plan, ids or [])
    preflight.require(replace(plan, experiments=tuple(chosen)), name=str(file), access=not dry_run)
    options = runner.Options(executor, limit, force, device, dtype, batch_size)
    if dry_run:
        show_plan(plan, chosen, options, as_json=as_json)
        return
    ended = run_and_show(plan, chosen, options, as_json=as_json)
    if any(each.status in {"failed", "cancelled"} for each in ended):
        raise typer.Exit(1)
