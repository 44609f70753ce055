"""`unsay ls`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unsay.cli import _lab

# What to list, where its files are, what it is.
KINDS = {
    "models": ("models", "model families: undo token, chat template, cache"),
    "datasets": ("datasets", "dataset formats"),
    "methods": ("methods", "kinds of experiment"),
    "strategies": ("augment", "ways to put mistakes and their undo into training answers"),
    "metrics": ("metrics", "what is computed from every answer"),
    "executors": ("executors", "where experiments run"),
}


def command(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help=f"One of: {', '.join(KINDS)}, names.")] = None,
    as_json: _lab.Json = False,
) -> None:
    """List what there is: models, datasets, methods, strategies, metrics, executors."""
    from unsay import catalog
    from unsay.errors import ConfigError

    if kind is not None and kind not in (*KINDS, "names"):
        raise ConfigError(catalog.unknown("kind", kind, (*KINDS, "names")))
    wanted = KINDS if kind is None else {kind: KINDS[kind]} if kind in KINDS else {}
    listing = {
        name: {plugin: catalog.summary(folder, plugin) for plugin in catalog.names(folder)}
        for name, (folder, _) in wanted.items()
    }
    known = _built_in() if kind in (None, "names") else {}
    if as_json:
        _lab.print_json({"schema": 1, **listing, "names": known})
        return
    from unsay.report.escape import line

    for name, found in listing.items():
        print(f"{name}: {KINDS[name][1]}")
        width = max(map(len, found), default=0)
        for plugin, summary in found.items():
            print(f"  {plugin:<{width}}  {line(summary)}".rstrip())
        print()
    if known:
        print("names: what an experiment file can use without defining it")
        for part, names in known.items():
            print(f"  {part}: {', '.join(names)}")


def _built_in() -> dict[str, list[str]]:
    import yaml

    path = Path(__file__).parent.parent / "assets" / "builtin.yaml"
    if not path.is_file():
        return {}
    value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {part: sorted(value[part]) for part in ("models", "datasets", "configs") if value.get(part)}
