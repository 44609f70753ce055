"""Which model a command line means: a built-in name, a folder, a hub id, or a finished experiment of a lab.

    named("qwen3-0.6b").model.path          # 'Qwen/Qwen3-0.6B'
    named("EXP-004", Path("outputs")).adapter

Nothing is loaded or downloaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsay import config, definitions
from unsay.config import Model
from unsay.errors import ModelError, StoreError
from unsay.store import layout, read

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Named:
    """A model, and the folder of a training (an adapter, or a whole model) that goes over its weights."""

    model: Model
    adapter: Path | None = None


def named(name: str, lab: Path | None = None, *, adapter: str | None = None, template: str | None = None) -> Named:
    """Return what `name` means; `adapter` and `template` go over what it brings.

    A built-in name comes first, then an experiment of the lab, a folder (a model, or an adapter that names its base
    model), a hub id. Raises ModelError or ConfigError, saying what there is.
    """
    found = _defined(name) or _experiment(name, lab) or _folder(name) or _hub(name)
    if found is None:
        raise ModelError(_unknown(name, lab))
    if adapter is not None:
        if found.adapter is not None:
            raise ModelError(f"expected one adapter, got {adapter} beside {name}, which has one already; leave it out")
        if not Path(adapter).is_dir():
            raise ModelError(f"expected the folder of an adapter, got {adapter}, which is not there; check the path")
        found = Named(found.model, Path(adapter).absolute())
    if template is not None:
        found = dataclasses.replace(found, model=dataclasses.replace(found.model, template=_template(template)))
    return found


def _experiment(name: str, lab: Path | None) -> Named | None:
    if lab is None or not lab.is_dir():
        return None
    try:
        entry = read.pick(read.find(lab.absolute()), name)
    except StoreError as error:
        if "more than one" in str(error):
            raise
        return None
    if entry.record is not None and entry.record.method == "vanilla":
        raise ModelError(
            f"expected an experiment that trained a model, got {name}, which evaluates {entry.record.model}; "
            "name that model instead"
        )
    model = config.trained_model(entry.folder, lab.absolute())
    assert model.experiment is not None
    return Named(model, layout.train(lab.absolute() / model.experiment))


def _defined(name: str) -> Named | None:
    model = definitions.builtin().models.get(name)
    return None if model is None else Named(model)


def _folder(name: str) -> Named | None:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    folder = folder.absolute()
    if (folder / "config.json").is_file():
        return Named(Model(folder.name, str(folder)))
    if not (folder / _ADAPTER).is_file():
        return None
    base = _json(folder / layout.UNDO_TABLE).get("base_model") or {}
    settings = _json(folder / _ADAPTER)
    path = base.get("path") or settings.get("base_model_name_or_path")
    if not isinstance(path, str) or not path:
        raise ModelError(
            f"expected {folder / _ADAPTER} to name the model below the adapter, got none there; give that model, and "
            f"the adapter beside it: {folder}"
        )
    if Path(path).is_dir():
        path = str(Path(path).absolute())
    return Named(Model(folder.name, path, revision=base.get("revision") or settings.get("revision")), folder)


def _hub(name: str) -> Named | None:
    return Named(Model(name, name)) if _HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _unknown(name: str, lab: Path | None) -> str:
    builtin = sorted(definitions.builtin().models)
    near = difflib.get_close_matches(name, builtin, n=1)
    if Path(name).exists():
        got = f"{name}, which holds neither config.json nor {_ADAPTER}"
    else:
        got = f"{name!r}" + (f" (did you mean {near[0]}?)" if near else "")
    where = "" if lab is None else f" of {lab}" if lab.is_dir() else f" (there is no lab folder {lab} here)"
    return (
        f"expected a model: a built-in name ({', '.join(builtin)}), a hub id such as Qwen/Qwen3-0.6B, a folder, or the "
        f"id of a finished experiment{where}; got {got}. `unsay ls` and `unsay status` list what there is"
    )


def _template(written: str) -> str:
    if written not in definitions.templates() and not written.endswith((".jinja", ".jinja2")):
        known = ", ".join(definitions.templates())
        raise ModelError(f"expected a chat template ({known}) or the path of a .jinja file, got {written!r}")
    return str(Path(written).absolute()) if written.endswith((".jinja", ".jinja2")) else written


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
