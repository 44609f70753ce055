"""`unsay demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="The lab folder; the page is written beside it.")
    ] = _lab.DEFAULT,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first N problems.")] = None,
    as_json: _lab.Json = False,
) -> None:
    """Run the whole loop on the bundled model and generated problems; nothing is downloaded."""
    from unsay import config, runner
    from unsay.cli._running import run_and_show

    file = Path(__file__).parent.parent / "assets" / "demo.yaml"
    plan = config.load(file, output_dir=output_dir, check=True)
    ended = run_and_show(plan, plan.experiments, runner.Options(limit=limit), as_json=as_json)
    if any(each.status not in {"completed", "skipped"} for each in ended):
        raise typer.Exit(1)
