"""What an experiment file defines by name: models, datasets and configs, the built-in ones included.

The built-in names are a packaged experiment file (`assets/builtin.yaml`) read by the same code; what a user's file says
under the same name goes over it. Paths are relative to the file they stand in. Nothing is loaded or downloaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from unsay import catalog, overrides
from unsay.backend import SERVER, START_TIMEOUT, TIMEOUT, VLLM, Backend, missing_interpreter, wrong_args, wrong_url
from unsay.errors import UnsayError
from unsay.lm_eval_files import TASK_FILES
from unsay.located import Located
from unsay.overrides import Patch, Say

BUILTIN = Path(__file__).parent / "assets" / "builtin.yaml"

GSM8K = "gsm8k"
"""The task whose questions have a format of their own, of the same name."""
DATASET_INFO = "dataset_info"
"""The one format that is no reader: LLaMA-Factory's list of files, which says where a dataset is and how it looks."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FEWSHOT = re.compile(r"fewshot_(0|[1-9]\d{0,3})")


@dataclass(frozen=True)
class Model:
    """A model to evaluate or train. `path` is a hub id or an absolute folder."""

    name: str
    path: str
    revision: str | None = None
    adapter: str | None = None
    """Absolute folder of an adapter to put on it."""
    template: str | None = None
    """A built-in chat template's name or an absolute .jinja path; None: the model's own."""
    trust_remote_code: bool = False
    experiment: str | None = None
    """Folder, relative to the lab's, of a finished experiment whose `train/` holds the adapter to use."""
    experiment_identity: str | None = None
    backend: Backend | None = None
    """What generates its answers; None: the process that evaluates it."""

    def __post_init__(self) -> None:
        if isinstance(self.backend, Mapping):  # as it comes out of JSON
            object.__setattr__(self, "backend", Backend.from_json(self.backend))

    @property
    def is_local(self) -> bool:
        return Path(self.path).is_absolute()


@dataclass(frozen=True)
class Dataset:
    """Questions with answers. `path` is a hub id, an absolute folder or an absolute file."""

    name: str
    path: str | None = None
    task: str | None = None
    """An lm-eval task, or the absolute path of a task file; without `path` the dataset can only be evaluated on."""
    format: str | None = None
    """A file of `unsay/datasets`."""
    columns: dict[str, str] = field(default_factory=dict)
    answer: str | None = None
    """A regular expression whose group 1 is the final answer."""
    dev_share: float = 0.0
    """Share of the questions kept out of training, to evaluate on."""

    @property
    def is_local(self) -> bool:
        return self.path is not None and Path(self.path).is_absolute()

    @property
    def is_the_tasks(self) -> bool:
        """Say whether local lines go to the task unchanged: they have its own columns, not those of a format."""
        return self.is_local and self.format is None and self.task not in (None, GSM8K)


EVALUATION_ONLY = "gsmsymbolic"
"""Part of a dataset's name or path, spelled anyhow: GSM-Symbolic, made from GSM8K's test questions."""


def never_trained_on(dataset: Dataset) -> str | None:
    """Say why a dataset must not be trained on, judged by its name and path; None when it may."""
    where = dataset.path or ""
    if dataset.is_local:  # what the data itself is called, not where somebody keeps all of his
        where = "/".join(Path(where).parts[-2:] if Path(where).suffix else Path(where).parts[-1:])
    for name in (dataset.name, where, dataset.task or ""):
        if EVALUATION_ONLY in re.sub(r"[\W_]", "", name.casefold()):
            return (
                f"dataset {dataset.name!r} is GSM-Symbolic ({name}): its questions are GSM8K's test questions with "
                "other numbers, and its licence allows no derivatives; it is for evaluation only, train on another"
            )
    return None


@dataclass(frozen=True)
class Config:
    """A named set of settings as written; `base` and `train_as` are names of other configs."""

    name: str
    line: int
    patch: Patch
    method: str | None = None
    base: str | None = None
    train_as: str | None = None


@dataclass(frozen=True)
class Named:
    """A config with everything it inherits. `train_name` is the config whose training it uses."""

    patch: Patch
    method: str | None
    train_name: str


@dataclass(frozen=True)
class Definitions:
    """All names an experiment can use."""

    models: dict[str, Model] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)

    def config(self, name: str) -> Config | None:
        """Return a config; any `fewshot_<n>` exists."""
        if name not in self.configs and (match := _FEWSHOT.fullmatch(name)):
            model = self.configs["fewshot_8"]
            shots = overrides.Written(int(match[1]), model.line)
            return dataclasses.replace(model, name=name, patch={**model.patch, "prompting.num_fewshot": shots})
        return self.configs.get(name)

    def resolve(self, name: str, say: Say, below: tuple[str, ...] = ()) -> Named | None:
        """Return a config with what it inherits, or None after saying what is wrong."""
        config = self.config(name)
        if config is None:
            return None
        parent_name = config.train_as or config.base
        if parent_name is None:
            return Named(config.patch, config.method, name)
        if name in below or parent_name == name:
            say(config.line, f"config {name!r} inherits from itself: {' -> '.join([*below, name, parent_name])}")
            return None
        if self.config(parent_name) is None:
            key = "train_as" if config.train_as else "base"
            say(config.line, f"{key}: {catalog.unknown('config', parent_name, self.configs)}")
            return None
        parent = self.resolve(parent_name, say, (*below, name))
        if parent is None:
            return None
        shares_training = config.train_as is not None or parent.train_name != parent_name
        if shares_training:
            for key, item in config.patch.items():
                if not key.startswith("decode."):
                    shown = key.split(".")[0] if key.startswith("undo") else key.split(".")[1]
                    say(
                        item.line,
                        f"config {name!r} uses the training of {parent.train_name!r}, so it can only set decode:;"
                        f" remove {shown!r}, or write `base:` instead of `train_as:`",
                    )
        return Named(
            overrides.merge(parent.patch, config.patch),
            config.method or parent.method,
            parent.train_name if shares_training else name,
        )


class Section:
    """One mapping of the file, read key by key."""

    def __init__(self, node: Located, what: str, known: Iterable[str], say: Say) -> None:
        self.node = node
        self.say = say
        known = tuple(known)
        self.entries = node.mapping()
        if not isinstance(node.value, dict):
            say(node.line, f"{what} must be a mapping such as {{{known[0]}: …}}; got {node.described()}")
        for key, item in self.entries.items():
            if key not in known:
                say(item.line, overrides.misplaced(key) or catalog.unknown(f"key in {what}", key, known))

    def get(self, key: str, kind: Any = str) -> Any:
        """Return a key's value as a type; None when it is absent, null or wrong (which is said)."""
        node = self.entries.get(key)
        if node is None or node.value is None:
            return None
        try:
            return overrides.coerce(node, kind)
        except ValueError as error:
            self.say(node.line, f"{key} {error}; got {node.described()}")
            return None

    def line(self, key: str) -> int:
        return self.entries.get(key, self.node).line


def read(root: Mapping[str, Located], folder: Path, known: Definitions, say: Say, *, check: bool = True) -> Definitions:
    """Return the names of a file laid over `known`; `check=False` lets local paths be missing."""
    places = _Places(folder, say, check)
    models, datasets, configs = dict(known.models), dict(known.datasets), dict(known.configs)
    for name, node in _named(root, "models", say):
        model = _model(name, node, known.models.get(name), places)
        if model is not None:
            models[name] = model
    for name, node in _named(root, "datasets", say):
        dataset = _dataset(name, node, known.datasets.get(name), places)
        if dataset is not None:
            datasets[name] = dataset
    for name, node in _named(root, "configs", say):
        configs[name] = _config(name, node, known.configs.get(name), say)
    return Definitions(models, datasets, configs)


def check_configs(found: Definitions, names: Iterable[str], folder: Path, say: Say) -> None:
    """Report what is wrong with configs of a file, used or not."""
    for name in names:
        config = found.configs[name]
        named = found.resolve(name, say)
        longer = next((other for other in found.configs if other.startswith(f"{name}/")), None)
        if longer is not None:
            say(config.line, f"config {name!r} would be a folder around config {longer!r}; give it another name")
        if named is not None:
            trains = any(not key.startswith(("prompting.", "decode.")) for key in named.patch)
            method = named.method or (overrides.SFT if trains else overrides.VANILLA)
            overrides.compose(named.patch, method, folder, at(config.line, say))


def at(line: int, say: Say) -> Say:
    """Return a `say` that reports what has no line in the user's file (line 0) at this line."""
    return lambda found, message: say(found or line, message)


def templates() -> tuple[str, ...]:
    """Return the names of the built-in chat templates."""
    families = (catalog.plugin("models", name)() for name in catalog.names("models"))
    return tuple(sorted(template for family in families for template in family.templates))


@cache
def builtin() -> Definitions:
    """Return the built-in names. Cached: do not change what it returns."""
    from unsay import located

    root, mistakes = located.read(BUILTIN.read_text(encoding="utf-8"), BUILTIN.name)

    def say(line: int, message: str) -> None:
        mistakes.append(f"{BUILTIN.name}:{line}: {message}")

    found = read(root.mapping(), BUILTIN.parent, Definitions(), say, check=False)
    for name, config in found.configs.items():
        # Line 0: not a line of the user's file.
        patch = {key: dataclasses.replace(item, line=0) for key, item in config.patch.items()}
        found.configs[name] = dataclasses.replace(config, line=0, patch=patch)
        found.resolve(name, say)
    assert not mistakes, mistakes
    return found


def absolute(path: Path) -> str:
    """Return an absolute path without `..`; links stay, as what they point to may have another name."""
    return os.path.normpath(path.absolute())


# -- one entry each ---------------------------------------------------------------


class _Places:
    """Turns what stands behind `path:` into an absolute path or a hub id."""

    def __init__(self, folder: Path, say: Say, check: bool) -> None:
        self.folder = folder
        self.say = say
        self.check = check

    def local(self, text: str) -> str:
        return absolute(self.folder / Path(text).expanduser())

    def find(self, text: str, line: int, what: str) -> str | None:
        path = self.local(text)
        if Path(path).exists():
            return path
        if text.startswith((".", "/", "~")) or text.endswith((".jsonl", ".json")):
            if not self.check:
                return path
            self.say(line, f"missing {what}: there is no {path}")
            return None
        if _HUB_ID.fullmatch(text):
            return text
        self.say(line, f"{what} {text!r} is neither there ({path}) nor a hub id such as org/name")
        return None

    def task(self, text: str, line: int) -> str:
        path = self.local(text)
        if self.check and not Path(path).is_file():
            self.say(line, f"missing task file: there is no {path}")
        return path

    def folder_of(self, text: str, line: int, what: str) -> str | None:
        path = self.local(text)
        if self.check and not Path(path).is_dir():
            self.say(line, f"missing {what}: there is no folder {path}")
            return None
        return path


def _named(root: Mapping[str, Located], section: str, say: Say) -> Iterable[tuple[str, Located]]:
    node = root.get(section)
    if node is None or node.value is None:
        return
    if not isinstance(node.value, dict):
        say(node.line, f"{section} must be a mapping from names to definitions; got {node.described()}")
        return
    for name, item in node.value.items():
        parts = name.split("/") if section == "configs" else [name]
        if not all(_NAME.fullmatch(part) for part in parts) or any(re.fullmatch(r"(seed|limit)_\d+", p) for p in parts):
            say(
                item.line,
                f"{name!r} cannot be a folder's name; use letters, digits, '.', '_' and '-'"
                + (", '/' between parts" if section == "configs" else ""),
            )
        else:
            yield name, item


def _model(name: str, node: Located, known: Model | None, places: _Places) -> Model | None:
    keys = ("path", "revision", "adapter", "template", "trust_remote_code", "backend")
    section = Section(node, f"model {name!r}", keys, places.say)
    path, revision, adapter = section.get("path"), section.get("revision"), section.get("adapter")
    if path is not None:
        path = places.find(path, section.line("path"), "model folder")
        if path is None:
            return Model(name, str(places.local(section.entries["path"].text)))
        known = None if known is None else dataclasses.replace(known, revision=None)
    elif known is None:
        places.say(node.line, f"model {name!r} needs `path:`, a hub id such as Qwen/Qwen3-0.6B or a folder")
        return None
    model = known or Model(name, "")
    model = dataclasses.replace(
        model,
        path=path or model.path,
        revision=revision or model.revision,
        adapter=places.folder_of(adapter, section.line("adapter"), "adapter folder") if adapter else model.adapter,
        template=_template(section, places) or model.template,
        trust_remote_code=bool(section.get("trust_remote_code", bool)),
        backend=_backend(name, section.entries.get("backend"), places) or model.backend,
    )
    if model.is_local and model.revision:
        places.say(section.line("revision"), f"model {name!r} is a folder, so `revision:` means nothing; remove it")
    if model.trust_remote_code and not model.is_local and not _COMMIT.fullmatch(model.revision or ""):
        places.say(
            section.line("trust_remote_code"),
            "trust_remote_code runs code from the hub: pin it with `revision:` and the full 40-digit commit",
        )
    return model


def _backend(name: str, node: Located | None, places: _Places) -> Backend | None:
    """Read `vllm`, `{vllm: PYTHON, args: …}` or `{server: URL, model: …}`."""
    if node is None or node.value is None:
        return None
    what = f"the backend of model {name!r}"
    if not isinstance(node.value, dict):
        if node.text != VLLM:
            places.say(
                node.line,
                f"{what} must be `vllm`, {{vllm: ~/vllm/bin/python}} or {{server: http://127.0.0.1:8000/v1}}; "
                f"got {node.described()}",
            )
            return None
        return _checked(Backend(VLLM), what, node.line, places)
    if SERVER in node.mapping():
        section = Section(node, what, (SERVER, "model", "timeout"), places.say)
        url = section.get(SERVER)
        reason = wrong_url(url) if url is not None else "is empty; expected one such as http://127.0.0.1:8000/v1"
        if reason is not None:
            places.say(section.line(SERVER), f"{SERVER}: the address {reason}")
            return None
        return Backend(SERVER, url=url, served_name=section.get("model"), timeout=_timeout(section, "timeout", TIMEOUT))
    section = Section(node, what, (VLLM, "args", "timeout", "start_timeout"), places.say)
    if VLLM not in section.entries:
        if section.entries.keys() <= {"args", "timeout", "start_timeout"}:  # an unknown key was said already
            places.say(node.line, f"{what} needs `vllm:` with the Python that has it, or `server:` with an address")
        return None
    interpreter, args = section.get(VLLM), section.get("args", list[str]) or ()
    for reason in wrong_args(args):
        places.say(section.line("args"), f"args: {reason}")
    backend = Backend(
        VLLM,
        None if interpreter is None else places.local(interpreter),
        args,
        _timeout(section, "start_timeout", START_TIMEOUT),
        timeout=_timeout(section, "timeout", TIMEOUT),
    )
    return _checked(backend, what, section.line(VLLM), places)


def _checked(backend: Backend, what: str, line: int, places: _Places) -> Backend:
    reason = missing_interpreter(backend) if places.check else None
    if reason is not None:
        places.say(line, f"{what}: {reason}")
    return backend


def _timeout(section: Section, key: str, default: float) -> float:
    value = section.get(key, float)
    if value is not None and not 0 < value < math.inf:
        section.say(section.line(key), f"{key} must be a number of seconds above 0; got {value:g}")
        return default
    return default if value is None else float(value)


def _template(section: Section, places: _Places) -> str | None:
    template: str | None = section.get("template")
    if template is None or template in (known := templates()):
        return template
    line = section.line("template")
    if not template.endswith((".jinja", ".jinja2")):
        places.say(line, catalog.unknown("template", template, known) + "; or write the path of a .jinja file")
        return None
    path = places.local(template)
    if not Path(path).is_file():
        places.say(line, f"missing template file: there is no {path}")
        return None
    return path


def _dataset(name: str, node: Located, known: Dataset | None, places: _Places) -> Dataset | None:
    keys = ("path", "task", "format", "columns", "answer", "dev_share")
    section = Section(node, f"dataset {name!r}", keys, places.say)
    path, task, format = section.get("path"), section.get("task"), section.get("format")
    if path is not None:
        path = places.find(path, section.line("path"), "dataset file")
        if path is None:
            return Dataset(name, task=task, format=format or "gsm8k")  # keeps lines that use it from being reported too
    if task is not None and task.endswith(TASK_FILES):
        task = places.task(task, section.line("task"))
    if known is not None and (format is None or format == known.format):
        path, task, format = path or known.path, task or known.task, format or known.format
    columns = section.get("columns", dict[str, str]) or {}
    converted = task in (None, GSM8K) or any(section.get(key, Any) for key in ("columns", "answer", "dev_share"))
    if format is None and path is not None and Path(path).is_absolute() and converted:
        format = _guess_format(path, columns, task, section)
    if format is not None:
        if format == DATASET_INFO:
            path, format, columns = _from_dataset_info(name, path, columns, section)
        elif not _check_format(format, path, columns, section):
            format = None
    elif columns:
        places.say(section.line("columns"), "columns need `format:` beside them")
    elif path is not None and task is None and not Path(path).is_absolute():
        places.say(section.line("path"), f"dataset {name!r} is on the hub: say how its lines look with `format:`")
    if path is None and task is None and format is None and not section.entries:
        places.say(node.line, f"dataset {name!r} needs `path:`, or `task:` for an lm-eval task")
    return Dataset(name, path, task, format, columns, _answer(section), _dev_share(section, path, places.say))


def formats() -> tuple[str, ...]:
    """Return the formats a file can have."""
    readers = [name for name in catalog.names("datasets") if not _is_generated(name)]
    return tuple(sorted({*readers, DATASET_INFO}))


def generated() -> tuple[str, ...]:
    """Return the datasets that need no path, as this package writes them itself."""
    return tuple(name for name in catalog.names("datasets") if _is_generated(name))


@cache
def _is_generated(name: str) -> bool:
    return hasattr(catalog.load("datasets", name), "write")


def _check_format(format: str, path: str | None, columns: Mapping[str, str], section: Section) -> bool:
    if format in generated():
        if path is not None:
            section.say(section.line("path"), f"format {format!r} is generated and takes no `path:`; remove it")
        return True
    line = section.line("format")
    if format not in formats():
        section.say(line, catalog.unknown("format", format, (*formats(), *generated())))
        return False
    if path is None:
        section.say(line, f"format {format!r} needs `path:`, a file, a folder or a hub id")
    try:
        roles = [item.name for item in dataclasses.fields(catalog.plugin("datasets", format))]
    except UnsayError as error:
        section.say(line, str(error))
        return False
    for role in columns:
        if role not in roles:
            section.say(section.line("columns"), catalog.unknown(f"column of format {format!r}", role, roles))
    return True


def _guess_format(path: str, columns: Mapping[str, str], task: str | None, section: Section) -> str | None:
    """Return the format whose columns the first line has."""
    place = Path(path)
    if place.name == "dataset_info.json" or ((place / "dataset_info.json").is_file() and not _first_file(place)):
        return DATASET_INFO
    file = place if place.is_file() else _first_file(place)
    row = _first_row(file) if file is not None else {}
    signs = {
        "gsm8k": ("question", "answer"),
        "alpaca": ("instruction", "output"),
        "sharegpt": ("conversations",),
        "messages": ("messages",),
        "prompt_completion": ("prompt", "completion"),
    }
    found = next((name for name, needed in signs.items() if all(column in row for column in needed)), None)
    if found is None:
        got = f"its first line has {', '.join(sorted(row))}" if row else "its first line cannot be read"
        section.say(
            section.line("path"),
            f"cannot tell the format of {path}: {got}; write `format:` ({', '.join(formats())}) and `columns:`",
        )
    return found


def _first_file(folder: Path) -> Path | None:
    names = [f"{split}.{end}" for split in ("train", "test", "dev") for end in ("jsonl", "json")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _first_row(file: Path) -> Mapping[str, Any]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            row = (
                json.load(lines)[0]
                if file.suffix == ".json"
                else json.loads(next(line for line in lines if line.strip()))
            )
    except (OSError, ValueError, StopIteration, LookupError, TypeError):
        return {}
    return row if isinstance(row, dict) else {}


def _from_dataset_info(
    name: str, path: str | None, columns: dict[str, str], section: Section
) -> tuple[str | None, str | None, dict[str, str]]:
    """Return path, format and columns of the entry called like the dataset in LLaMA-Factory's dataset_info.json."""
    nothing: tuple[str | None, str | None, dict[str, str]] = (None, None, {})
    line = section.line("path")
    if path is None or not Path(path).is_absolute():
        section.say(line, "format 'dataset_info' needs `path:`, the folder of a dataset_info.json")
        return nothing
    file = Path(path) / "dataset_info.json" if Path(path).is_dir() else Path(path)
    try:
        known = json.loads(file.read_text(encoding="utf-8-sig"))
        entry = known.get(name)
    except (OSError, ValueError, AttributeError) as error:
        section.say(line, f"{file}: expected LLaMA-Factory's dataset_info.json, got {error}")
        return nothing
    if not isinstance(entry, dict):
        section.say(line, f"{file}: {catalog.unknown('dataset', name, known)}")
        return nothing
    format = str(entry.get("formatting") or "alpaca")
    if format not in ("alpaca", "sharegpt") or entry.get("ranking"):
        section.say(
            line,
            f"{file}: {name!r} is {'ranking data' if entry.get('ranking') else format}, which unsay cannot "
            "train on; it reads alpaca and sharegpt",
        )
        return nothing
    roles = {item.name for item in dataclasses.fields(catalog.plugin("datasets", format))}
    written = {**(entry.get("columns") or {}), **(entry.get("tags") or {})}
    columns = {role: str(column) for role, column in written.items() if role in roles} | columns
    if isinstance(hub := entry.get("hf_hub_url"), str):
        return hub, format, columns
    data = file.parent / str(entry.get("file_name"))
    if not data.exists():
        section.say(line, f"missing dataset file: {file} says {name!r} is {data}")
        return nothing
    return str(data), format, columns


def _answer(section: Section) -> str | None:
    pattern: str | None = section.get("answer")
    if pattern is None:
        return None
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        section.say(section.line("answer"), f"answer is not a regular expression: {error}")
        return None
    if groups < 1:
        section.say(
            section.line("answer"),
            f'answer needs a group around the final answer, such as "#### (.+)"; got {pattern!r}',
        )
    return pattern


def _dev_share(section: Section, path: str | None, say: Say) -> float:
    share = section.get("dev_share", float)
    if share is None:
        return 0.0
    line = section.line("dev_share")
    if not 0 <= share < 1:
        say(line, f"dev_share must be at least 0 and below 1; got {share:g}")
    elif share and path is not None and not Path(path).is_absolute():
        say(line, "dev_share splits a local file; data on the hub has splits of its own; remove it")
    elif share and path is not None and any((Path(path) / f"test.{end}").is_file() for end in ("jsonl", "json")):
        say(line, f"dev_share would leave {path}/test.jsonl unused; remove one of the two")
    return float(share)


def _config(name: str, node: Located, known: Config | None, say: Say) -> Config:
    section = Section(node, f"config {name!r}", ("base", "train_as", "method", *overrides.SETTING_KEYS), say)
    patch = overrides.read(section.entries, say)
    method, base, train_as = section.get("method"), section.get("base"), section.get("train_as")
    if method is not None and method not in methods():
        say(section.line("method"), catalog.unknown("method", method, methods()))
        method = None
    if base is not None and train_as is not None:
        say(
            section.line("train_as"),
            f"config {name!r} has both base and train_as; write `train_as:` to use a training "
            "as it is and change decode:, `base:` to train anew",
        )
    if known is not None and base in (None, name) and train_as is None:
        return dataclasses.replace(
            known, line=node.line, patch=overrides.merge(known.patch, patch), method=method or known.method
        )
    return Config(name, node.line, patch, method, base, train_as)


def methods() -> tuple[str, ...]:
    """Return the kinds of experiments there are."""
    return tuple(sorted({overrides.VANILLA, overrides.SFT, *catalog.names("methods")}))
