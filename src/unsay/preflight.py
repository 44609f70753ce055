"""What a plan needs on this machine, looked at before anything starts: model folders, dataset lines, tokens, space.

Reads files only; nothing is loaded, downloaded or changed, and no network is used.

    mistakes = check(plan)      # ['gsm8k.yaml:7: model folder without tokenizer: …']
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unsay import catalog, lm_eval_files
from unsay.backend import SERVER, VLLM, missing_interpreter
from unsay.config import Dataset, Experiment, Model, Plan
from unsay.errors import DataError, UnsayError
from unsay.overrides import VANILLA

Found = Callable[[str], None]
"""Takes one mistake."""

GATED = ("meta-llama/", "google/gemma-", "mistralai/Mistral-7B-Instruct", "mistralai/Ministral-")
"""Hub ids that start like this are given only to accounts that asked for access."""

ROOM = 1024**3
"""Free bytes a run needs beside downloads: adapters, checkpoints, traces."""
SHOWN = 3
"""Wrong lines shown of one file."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_BYTES_PER_WEIGHT = 2


def check(plan: Plan, *, name: str | None = None, access: bool = True) -> list[str]:
    """Return every mistake, each with the line of the first experiment it stops.

    `name` is what to call the plan's file. `access=False` leaves out what only a real run needs: hub access and space.
    """
    mistakes: dict[str, None] = {}
    name = name or str(plan.file)
    models: set[Model] = set()
    trained: set[Model] = set()
    datasets: set[str] = set()
    for experiment in plan.experiments:
        found = _teller(name, experiment, mistakes)
        if experiment.model not in models:
            models.add(experiment.model)
            _check_model(experiment.model, found, access=access)
        _check_backend(experiment, found, access=access)
        if experiment.method != VANILLA and experiment.model not in trained:
            trained.add(experiment.model)
            _check_template(experiment.model, experiment.method, found)
        for file in _missing_files(experiment):
            found(f"undo: there is no file {file}; `unsay data build FILE ID --sample 4` makes one of candidates")
        if experiment.dataset.name not in datasets:
            datasets.add(experiment.dataset.name)
            _check_task(experiment.dataset, found)
            _check_dataset(experiment.dataset, found, access=access)
    if plan.experiments:
        found = _teller(name, plan.experiments[0], mistakes)
        if access and lm_eval_files.tasks_folder() is None:
            found("running experiments needs lm-eval, which is not installed; `pip install 'unsay[train]'`")
        _check_output(plan.output_dir, found, access=access)
        if access:
            _check_downloads(plan, found)
    return list(mistakes)


def _missing_files(experiment: Experiment) -> list[str]:
    """Return the files that the options of an undo strategy name and that are not there."""
    undo = experiment.settings.undo
    values = () if undo is None else undo.options.values()
    return [
        value for value in values if isinstance(value, str) and Path(value).is_absolute() and not Path(value).exists()
    ]


def needs_token(model: Model) -> bool:
    """Say whether the hub gives this model only to a logged-in account that has access."""
    return not model.is_local and model.path.startswith(GATED)


def is_cached(hub_id: str, kind: str = "models", revision: str | None = None) -> bool:
    """Say whether the hub's local cache has a snapshot of a model (or, by `kind`, a dataset)."""
    snapshots = hub_cache() / f"{kind}--{hub_id.replace('/', '--')}" / "snapshots"
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return (snapshots / revision).is_dir()
    return snapshots.is_dir() and any(snapshots.iterdir())


def hub_cache() -> Path:
    """Return the folder in which the hub's libraries keep downloads, after the same variables as theirs."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    return _hub_home() / "hub"


def hub_token() -> bool:
    """Say whether this account is logged in to the hub. Does not read the token."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    written = os.environ.get("HF_TOKEN_PATH")
    file = Path(written).expanduser() if written else _hub_home() / "token"
    return file.is_file() and file.stat().st_size > 0


def _hub_home() -> Path:
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


def _is_offline() -> bool:
    variables = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in variables)


def _teller(name: str, experiment: Experiment, mistakes: dict[str, None]) -> Found:
    return lambda message: mistakes.setdefault(f"{name}:{experiment.line}: {message}")


# -- models -----------------------------------------------------------------------


def _check_model(model: Model, found: Found, *, access: bool) -> None:
    if model.is_local:
        _check_model_folder(Path(model.path), found)
    elif access and not is_cached(model.path, revision=model.revision):
        where = f"model {model.name!r} ({model.path})"
        if _is_offline():
            found(
                f"{where} is not in the local cache ({hub_cache()}) and the hub is switched off (HF_HUB_OFFLINE); "
                f"run `hf download {model.path}` where there is a network, or give a local folder as `path:`"
            )
        elif needs_token(model) and not hub_token():
            found(
                f"{where} is gated and this machine is not logged in; ask for access at "
                f"https://huggingface.co/{model.path}, then run `hf auth login` (`huggingface-cli login` in older "
                "versions) or set HF_TOKEN"
            )
    if model.adapter is not None:
        folder = Path(model.adapter)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).is_file():
                found(f"adapter folder without {name}: {folder}; give the folder that training wrote")


def _check_model_folder(folder: Path, found: Found) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "is not there"
        found(f"model folder {folder} {what}; `path:` must be a folder with config.json, tokenizer and weights")
        return
    config = folder / "config.json"
    if not config.is_file():
        found(f"model folder without config.json: {folder}; an adapter alone goes under `adapter:`")
    else:
        try:
            if "model_type" not in json.loads(config.read_text(encoding="utf-8")):
                found(f"{config} names no model_type; it is not the config of a transformers model")
        except (ValueError, TypeError, OSError) as error:
            found(f"{config} cannot be read: {error}")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        found(f"model folder without tokenizer: {folder} has none of {', '.join(_TOKENIZERS)}; copy them there")
    _check_weights(folder, found)


def _check_weights(folder: Path, found: Found) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            found(f"{index} cannot be read; download the model again")
            return
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            found(f"model folder with missing weights: {folder} lacks {', '.join(missing)}; download it again")
    elif not any(folder.glob("*.safetensors")):
        old = any(folder.glob("pytorch_model*.bin"))
        hint = "convert its .bin files to safetensors" if old else "copy model.safetensors there"
        found(f"model folder without weights in safetensors format: {folder}; {hint}")


def _check_backend(experiment: Experiment, found: Found, *, access: bool) -> None:
    """A server that runs already has weights of its own; a vLLM to be started must be there."""
    model, backend = experiment.model, experiment.model.backend
    if backend is None:
        return
    if backend.kind == SERVER and (experiment.method != VANILLA or model.experiment is not None):
        what = f"{experiment.method} trains" if experiment.method != VANILLA else f"{model.name} is"
        found(
            f"{what} other weights than the server at {backend.url} has, which would be evaluated instead; "
            "use `backend: vllm`, which starts one with the new weights, or export them and start one yourself"
        )
    if backend.kind == VLLM and backend.interpreter is not None and access and not missing_interpreter(backend):
        reason = _without_vllm(backend.interpreter)
        if reason is not None:
            found(f"backend of model {model.name!r}: {reason}")


@cache
def _without_vllm(interpreter: str) -> str | None:
    """Say why an interpreter cannot start vLLM: asked without importing it, which would take many seconds."""
    code = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('vllm') else 7)"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run([interpreter, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{interpreter} does not run: {error}"
    if done.returncode == 0:
        return None
    said = f": {done.stderr.strip().splitlines()[-1]}" if done.stderr.strip() else ""
    return (
        f"{interpreter} finds no vLLM{said}; install it there (docs/servers.md), or name another environment's Python"
    )


def _check_template(model: Model, method: str, found: Found) -> None:
    """A model that is trained needs a chat template; one that is evaluated is prompted plainly without one."""
    folder = Path(model.path)
    if model.template is not None or not model.is_local or not folder.is_dir():
        return
    if not has_chat_template(folder):
        found(
            f"model {model.name!r} has no chat template, which {method} needs; define it with `template:` "
            "(qwen3_nothink, llama3, plain or a .jinja file)"
        )


def has_chat_template(folder: Path) -> bool:
    """Say whether a model folder brings a chat template."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


# -- datasets ---------------------------------------------------------------------


def _check_task(dataset: Dataset, found: Found) -> None:
    task = dataset.task
    if task is None or task == dataset.format == "gsm8k":  # lm-eval has that one; reading its folder takes time
        return
    if task.endswith(lm_eval_files.TASK_FILES):
        if not Path(task).is_file():
            found(f"dataset {dataset.name!r}: there is no task file {task}")
        else:
            _check_math(dataset, Path(task), found)
        return
    folder = lm_eval_files.tasks_folder()
    if folder is None:
        return
    file = lm_eval_files.find_task(folder, task)
    if file is not None:
        _check_math(dataset, file, found)
        return
    close = catalog.nearest(task, lm_eval_files.task_names(folder))
    hint = f"did you mean {close!r}? " if close else ""
    found(f"dataset {dataset.name!r}: lm-eval has no task {task!r}; {hint}`lm_eval ls tasks` lists them")


def _check_math(dataset: Dataset, file: Path, found: Found) -> None:
    missing = lm_eval_files.missing_math(file)
    if missing is not None:
        found(
            f"dataset {dataset.name!r}: the code of task {dataset.task!r} needs {missing}, which is not installed; "
            "`pip install 'unsay[math]'`"
        )


def _check_dataset(dataset: Dataset, found: Found, *, access: bool) -> None:
    if not dataset.is_local:
        hub = dataset.path
        if access and hub is not None and _is_offline() and not is_cached(hub, "datasets"):
            found(
                f"dataset {dataset.name!r} ({hub}) is not in the local cache and the hub is switched off; "
                "give a local folder with train.jsonl and test.jsonl as `path:`"
            )
        return
    place = Path(dataset.path or "")
    files = [place] if place.is_file() else split_files(place)
    if not files:
        inside = ", ".join(sorted(item.name for item in place.iterdir())[:8]) if place.is_dir() else "nothing"
        found(f"dataset {dataset.name!r}: expected train.jsonl and test.jsonl in {place}, found {inside or 'nothing'}")
    for file in files:
        wrong = list(_wrong_lines(file, dataset))
        for message in wrong[:SHOWN]:
            found(f"dataset {dataset.name!r}: {message}")
        if len(wrong) > SHOWN:
            found(f"dataset {dataset.name!r}: {file} has {len(wrong) - SHOWN:,} more lines like that")


def split_files(folder: Path) -> list[Path]:
    """Return the files of a dataset folder that are named after a split."""
    names = (f"{split}.{end}" for split in ("train", "dev", "test") for end in ("jsonl", "json"))
    return [folder / name for name in names if (folder / name).is_file()]


def _wrong_lines(file: Path, dataset: Dataset) -> Iterator[str]:
    """Yield what is wrong with each line that the dataset's format cannot read."""
    if dataset.is_the_tasks:  # which columns it wants, only its code knows
        rows = list(_rows(file))
        yield from (f"{file}:{number}: {row}" for number, row in rows if isinstance(row, str))
        if not rows:
            yield f"{file} is empty"
        return
    if dataset.format is None:  # wrong or unknown, which is reported where the dataset is defined; so are its columns
        return
    try:
        reader: Any = catalog.plugin("datasets", dataset.format)(**dataset.columns)
    except UnsayError as error:
        yield str(error)
        return
    except TypeError:
        return
    answer = re.compile(dataset.answer) if dataset.answer else None
    count = 0
    for number, row in _rows(file):
        count += 1
        where = f"{file}:{number}"
        if isinstance(row, str):
            yield f"{where}: {row}"
            continue
        try:
            example = reader.example(row, where)
        except DataError as error:
            yield str(error)
            continue
        if answer is not None and answer.search(example.answer) is None:
            yield f"{where}: answer pattern {dataset.answer!r} is not in the gold answer {example.answer[-40:]!r}"
    if not count:
        yield f"{file} is empty"


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield (line number from 1, row) of a JSON Lines file or a JSON list; a row that is none is a message."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            if file.suffix == ".json":
                content = json.load(lines)
                if not isinstance(content, list):
                    yield 1, "expected a JSON list of objects"
                    return
                for number, row in enumerate(content, 1):
                    yield number, row if isinstance(row, dict) else "expected a JSON object"
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _row(line)
    except UnicodeDecodeError:
        yield 1, "expected text in UTF-8, got other bytes"
    except ValueError as error:
        yield 1, f"expected a JSON list of objects, got {error}"
    except OSError as error:
        yield 1, f"cannot be read: {error.strerror or error}"


def _row(line: str) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"expected one JSON object per line, got {error}"
    return row if isinstance(row, dict) else "expected one JSON object per line"


# -- space ------------------------------------------------------------------------


def _check_output(output_dir: Path, found: Found, *, access: bool) -> None:
    place = existing(output_dir)
    if not place.is_dir():
        found(f"output folder {output_dir} cannot be made: {place} is a file; choose another `output_dir:`")
    elif not os.access(place, os.W_OK | os.X_OK):
        found(f"output folder {output_dir} cannot be written: no permission for {place}; choose another `output_dir:`")
    elif access and (free := shutil.disk_usage(place).free) < ROOM:
        found(f"output folder {output_dir}: {_gib(free)} free, a run needs about {_gib(ROOM)}; make room")


def _check_downloads(plan: Plan, found: Found) -> None:
    models = {item.model.path: item.model for item in plan.experiments if not item.model.is_local}
    size = sum(_download_size(path) for path, item in models.items() if not is_cached(path, revision=item.revision))
    free = shutil.disk_usage(existing(hub_cache())).free
    if size > free:
        found(
            f"the models to download need about {_gib(size)}, but {hub_cache()} has {_gib(free)} free; make room, or "
            "set HF_HOME to a larger disk"
        )


def _download_size(hub_id: str) -> int:
    """Guess the bytes of a model's weights from its name (`Qwen3-4B`); 0 where the name says nothing."""
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", hub_id)
    return int(float(match[1]) * 1e9 * _BYTES_PER_WEIGHT) if match else 0


def existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _gib(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB"
