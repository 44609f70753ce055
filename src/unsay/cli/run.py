"""`unsay run`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsay.cli import _lab

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unsay.backend import Backend
    from unsay.config import Experiment, Plan


class _Dtype(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not auto, cpu, mps, cuda or cuda:N (such as cuda:1).")
    return value


def _executor(value: str | None) -> str | None:
    from unsay import catalog, placement

    known = catalog.names("executors")
    if value is not None and value not in known and not placement.is_profile(value):
        raise typer.BadParameter(catalog.unknown("executor", value, known) + "; a profile is a file ending in .yaml")
    return value


def _refuse_beside_rehearse(others: dict[str, object]) -> None:
    for name, value in others.items():
        if value:
            raise typer.BadParameter(f"{name} and --rehearse exclude each other.", param_hint=name)


def _backend(plan: Plan, name: str, count: int) -> Backend:
    """Return the backend of a model of the file, that is to generate `count` answers once more."""
    from unsay import config
    from unsay.backend import VLLM, missing_interpreter
    from unsay.errors import ConfigError

    if not count:
        raise typer.BadParameter("it generates the answers of --check-batch; say how many.", param_hint="--check-with")
    backend = config.find_model(plan, name).backend
    if backend is None:
        raise ConfigError([f"--check-with: expected a model with a `backend:`, got {name}, which has none"])
    missing = missing_interpreter(backend) if backend.kind == VLLM else None
    if missing:
        raise ConfigError([f"--check-with {name}: {missing}"])
    return backend


def _refused(experiments: Sequence[Experiment], group: Mapping[str, Any] | None) -> list[str]:
    """Say which experiments cannot be trained by these processes."""
    from unsay import accelerate_file

    return [
        f"{experiment.folder}: {refusal}"
        for experiment in experiments
        if group is not None and experiment.settings.training is not None
        for refusal in accelerate_file.refusals(group, experiment.settings.training)
    ]


def command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids or folders to run; all when none is given.")] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Where to run: local, inline, slurm, ray (`unsay ls executors`), or a profile (a YAML file).",
            callback=_executor,
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the executor, over what files say.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for jobs of a batch system; without it they are only submitted.")
    ] = False,
    print_script: Annotated[
        bool, typer.Option("--print-script", help="Print a batch script that would run them, and stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")] = False,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Every stage in small, on tiny random models; then what the true run will want."
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate only the first N items; kept apart from full results.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what is finished; the old result is kept aside.")
    ] = False,
    output_dir: Annotated[Path | None, typer.Option(help="The lab folder, instead of the file's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.", callback=_device)] = "auto",
    dtype: Annotated[_Dtype, typer.Option(help="Numbers the weights are loaded as.")] = _Dtype.AUTO,
    batch_size: Annotated[
        int | None, typer.Option(help="Answers generated at a time; as many as suit the device without it.", min=1)
    ] = None,
    check_batch: Annotated[
        int, typer.Option(min=0, help="Generate N answers again, each alone, and say how many come out the same.")
    ] = 0,
    check_with: Annotated[
        str | None,
        typer.Option(help="Let the backend of this model of the file generate them, too.", metavar="MODEL"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes that train one experiment together, one per GPU.", min=1)
    ] = None,
    accelerate: Annotated[
        Path | None, typer.Option(help="An accelerate config file for them: DDP (as without a file) or FSDP.")
    ] = None,
    retries: Annotated[
        int,
        typer.Option(min=0, help="Try again so often what may pass: a killed worker, no memory, a lost connection."),
    ] = 0,
    as_json: _lab.Json = False,
) -> None:
    """Run the experiments of a file, skipping what is finished."""
    from dataclasses import replace

    from unsay import accelerate_file, config, placement, preflight, runner
    from unsay.cli._running import run_and_show, show_plan
    from unsay.errors import ConfigError

    if rehearse:
        _refuse_beside_rehearse({"--dry-run": dry_run, "--limit": limit, "--force": force})
        _refuse_beside_rehearse({"--processes": processes, "--accelerate": accelerate, "--print-script": print_script})
    group = accelerate_file.read(accelerate, processes)
    if group is not None and device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(
            f"{device!r} is one device; {group['num_processes']} processes need auto, cuda or cpu."
        )

    def check(plan: Plan) -> list[str]:
        try:
            chosen = runner.choose(plan, ids or [])
        except ConfigError:  # an unknown id; said below, once the file itself has no mistakes
            chosen = []
        if rehearse:  # it looks by itself, and says what it found beside how the rest went
            return []
        refused = _refused(chosen, group)
        return refused + preflight.check(replace(plan, experiments=tuple(chosen)), name=str(file), access=not dry_run)

    plan = config.load(file, output_dir=output_dir, check=check)
    chosen = runner.choose(plan, ids or [])
    placed = placement.choose(plan.placement, executor, option or [])
    options = runner.Options(
        placed, limit, force, device, dtype.value, batch_size, check_batch,
        check_with=None if check_with is None else _backend(plan, check_with, check_batch),
        processes=group, retries=retries, wait=wait,
    )  # fmt: skip
    if print_script:
        from unsay.cli._script import script

        print(script(plan, chosen, options, context), end="")
        return
    if dry_run:
        show_plan(plan, chosen, options, as_json=as_json)
        return
    if rehearse:
        from unsay.cli._rehearsing import rehearse_and_show

        if placed.name not in ("local", "inline"):  # tiny models, a few minutes: nothing to submit
            options = replace(options, placement=placement.Placement())
        if not rehearse_and_show(plan, chosen, options, name=str(file), as_json=as_json).ok:
            raise typer.Exit(1)
        return
    ended = run_and_show(plan, chosen, options, as_json=as_json)
    if any(each.status in {"failed", "cancelled", *(["queued"] if wait else [])} for each in ended):
        raise typer.Exit(1)
