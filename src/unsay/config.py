"""The experiment file: YAML in, a plan of frozen dataclasses out. Everything is checked before anything is loaded.

    plan = load(Path("gsm8k.yaml"))
    plan.experiments[0].folder          # 'qwen3-4b/gsm8k/vanilla/lm_eval/fewshot_8'

The file has seven parts, all optional but one of the last two:

    output_dir     the lab folder, relative to the current directory (default `outputs`)
    models         name: path (hub id or folder), adapter, template, revision, trust_remote_code
    datasets       name: path (hub id, folder or file), task, format, columns, answer, dev_share
    configs        name: base or train_as, method, and settings
    executor       where to run: a name, a profile or a mapping (`unsay.placement`)
    experiments    a list of lines: model, dataset, method, config; id, seed, notes and settings if wanted
    matrix         lines without id whose lists are axes: one experiment for each combination

Paths inside the file are relative to the file. Settings are the fields of `unsay.settings`: those of prompting and
training stand on the line itself, the others inside `decode:` and `undo:`, where a strategy's own options stand too. In
a matrix a setting that is itself a list is written as a list of lists. What a line changes of its named config becomes
a suffix of the result folder (`unsay.suffix`). A line that changes only `decode:` uses the training of the line without
the change, as does a config with `train_as:`.

Unknown keys, wrong values and contradictions are collected and raised together, each as `file:line: message`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unsay import catalog, definitions, identity, located, overrides, placement, redaction
from unsay.definitions import Dataset, Definitions, Model, Named, absolute
from unsay.errors import ConfigError, UnsayError
from unsay.located import Located
from unsay.overrides import SFT, VANILLA
from unsay.placement import Placement
from unsay.settings import Decode, Prompting, Settings, Training, UndoData
from unsay.store import layout, shared
from unsay.suffix import suffix

__all__ = ["Dataset", "Experiment", "Model", "Plan", "experiment_from_json", "experiment_to_json", "load"]

DEFAULT_OUTPUT_DIR = "outputs"
LARGEST_MATRIX = 10_000

_TOP = ("output_dir", "models", "datasets", "configs", "executor", "experiments", "matrix")
_PARTS = ("model", "dataset", "method", "config")
_LINE = ("id", *_PARTS, "seed", "notes", *overrides.SETTING_KEYS)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Experiment:
    """One row of the page, with everything decided."""

    id: str | None
    """None: given at the first real run."""
    model: Model
    dataset: Dataset
    method: str
    config: str
    """The config's name with the readable suffix of what the line changes."""
    settings: Settings
    seed: int
    seed_written: bool
    notes: str
    folder: str
    """Where it lives, relative to the lab folder, with forward slashes."""
    train_folder: str | None
    """Whose `data/` and `train/` it uses, relative to the lab folder; None where nothing is trained."""
    line: int
    title: str


@dataclass(frozen=True)
class Plan:
    """All experiments of a file, in its order."""

    file: Path
    output_dir: Path
    """Absolute."""
    experiments: tuple[Experiment, ...]
    placement: Placement | None = None
    """Where the file wants them to run; None where it does not say."""


def load(path: Path, *, output_dir: Path | None = None, check: bool | Callable[[Plan], Iterable[str]] = False) -> Plan:
    """Read an experiment file; raises ConfigError with every mistake found.

    `output_dir` goes over the file's own. `check` also looks at what the plan needs on this machine (model folders,
    dataset lines, tokens, disk); it changes nothing and uses no network. A function in its place gives the mistakes of
    a plan itself; they are raised together with those of the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. `unsay init` writes one.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder; expected an experiment file in YAML.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected YAML in UTF-8, got other bytes ({error.reason}). Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}.") from None
    root, mistakes = located.read(text, str(path))
    planner = _Planner(path, root, mistakes, output_dir)
    plan = planner.plan() if not mistakes or root.value else None
    if check and plan is not None:
        from unsay import preflight

        look = check if callable(check) else partial(preflight.check, name=str(path))
        mistakes += [mistake for mistake in look(_without_missing(plan, mistakes)) if mistake not in mistakes]
    if mistakes or plan is None:
        raise ConfigError(sorted(dict.fromkeys(mistakes), key=_by_line))
    return plan


def find_model(plan: Plan, name: str) -> Model:
    """Return the model that a line of the plan's file could name so: one of `models:`, or a finished training.

    Raise ConfigError where there is none.
    """
    root, mistakes = located.read(plan.file.read_text(encoding="utf-8-sig"), str(plan.file))
    planner = _Planner(plan.file, root, mistakes, plan.output_dir)
    planner.plan()
    mistakes.clear()  # the file itself was read before
    line = Located({"model": Located(name, 0, name)}, 0)
    chosen = planner._model(definitions.Section(line, "an experiment", _LINE, planner.say))
    if chosen is None:
        raise ConfigError([mistake.removeprefix(f"{plan.file}:0: ") for mistake in mistakes])
    return chosen.model


def trained_model(folder: Path, output_dir: Path) -> Model:
    """Return the model that the finished training of an experiment's folder is; raise ConfigError without one."""
    mistakes: list[str] = []
    planner = _Planner(folder, Located({}, 0), mistakes, output_dir)
    planner.known = definitions.builtin()
    chosen = planner._trained_before(folder, 0)
    if chosen is None:
        raise ConfigError([mistake.removeprefix(f"{folder}:0: ") for mistake in mistakes])
    return chosen.model


def _without_missing(plan: Plan, mistakes: Sequence[str]) -> Plan:
    """Leave out experiments whose model was reported as missing where it is defined."""

    def reported(path: str) -> bool:
        return not Path(path).exists() and any(path in mistake for mistake in mistakes)

    kept = [each for each in plan.experiments if not (each.model.is_local and reported(each.model.path))]
    return dataclasses.replace(plan, experiments=tuple(kept))


def experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as plain JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(experiment)))
    return plain


def experiment_from_json(value: Mapping[str, Any]) -> Experiment:
    """Return the experiment that `experiment_to_json` wrote."""
    settings = value["settings"]
    decode = dict(settings["decode"])
    decode["stop"] = None if decode["stop"] is None else tuple(decode["stop"])
    training = None if settings["training"] is None else dict(settings["training"])
    if training is not None and isinstance(training["lora_target"], list):
        training["lora_target"] = tuple(training["lora_target"])
    parts = {
        "model": Model(**value["model"]),
        "dataset": Dataset(**value["dataset"]),
        "settings": Settings(
            prompting=Prompting(**settings["prompting"]),
            decode=Decode(**decode),
            training=None if training is None else Training(**training),
            undo=None if settings["undo"] is None else UndoData(**settings["undo"]),
        ),
    }
    return Experiment(**{**value, **parts})


@dataclass(frozen=True)
class _Chosen:
    """A model as a line names it, and the context mode it was trained in when unsay trained it."""

    model: Model
    trained: str | None = None


class _Planner:
    """Goes through one file once; mistakes pile up in the list it was given."""

    def __init__(self, path: Path, root: Located, mistakes: list[str], output_dir: Path | None) -> None:
        self.path = path
        self.folder = Path(absolute(path)).parent
        self.root = root
        self.mistakes = mistakes
        self.output_dir = output_dir
        self.known = Definitions()
        self.experiments: list[Experiment] = []
        self.later: dict[str, int] = {}
        """Ids of the file and their lines, those still to come included."""

    def say(self, line: int, message: str) -> None:
        text = f"{self.path}:{line}: {message}"
        if text not in self.mistakes:
            self.mistakes.append(text)

    def plan(self) -> Plan:
        top = definitions.Section(self.root, "an experiment file", _TOP, self.say)
        written = top.get("output_dir") or DEFAULT_OUTPUT_DIR
        self.output_dir = Path(absolute(self.output_dir or Path(written).expanduser()))
        self.known = definitions.read(top.entries, self.folder, definitions.builtin(), self.say)
        own = [name for name in top.entries.get("configs", Located({}, 0)).mapping() if name in self.known.configs]
        definitions.check_configs(self.known, own, self.folder, self.say)
        lines = [*self._lines(top.entries.get("experiments")), *self._matrix(top.entries.get("matrix"))]
        if not lines and not self.mistakes:
            self.say(1, "nothing to do: write at least one line under `experiments:` or `matrix:`")
        self._note_ids(lines)
        self._refuse_secrets()
        for entries, line in lines:
            experiment = self._experiment(entries, line)
            if experiment is not None:
                self.experiments.append(experiment)
        self._check_together()
        executor = top.entries.get("executor")
        placed = None if executor is None else placement.read(executor, self.folder, self.say)
        return Plan(Path(absolute(self.path)), self.output_dir, tuple(self.experiments), placed)

    # -- lines --------------------------------------------------------------------

    def _lines(self, node: Located | None) -> Iterator[tuple[dict[str, Located], int]]:
        for item in self._items(node, "experiments"):
            section = definitions.Section(item, "an experiment", _LINE, self.say)
            yield section.entries, item.line

    def _matrix(self, node: Located | None) -> Iterator[tuple[dict[str, Located], int]]:
        allowed = tuple(key for key in _LINE if key != "id")
        for item in self._items(node, "matrix"):
            if "id" in item.mapping():
                self.say(item.mapping()["id"].line, "a matrix entry is many experiments and takes no `id:`")
            entries = {key: value for key, value in item.mapping().items() if key != "id"}
            definitions.Section(dataclasses.replace(item, value=entries), "a matrix entry", allowed, self.say)
            if _count(entries) > LARGEST_MATRIX:
                self.say(
                    item.line, f"this matrix entry makes {_count(entries):,} experiments; at most {LARGEST_MATRIX:,}"
                )
                continue
            for key in _empty_axes(entries):
                self.say(entries[key].line, f"{key} is an empty list, so this matrix entry makes no experiment")
            for combination in _combinations(entries):
                yield combination, item.line

    def _items(self, node: Located | None, name: str) -> list[Located]:
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, list):
            self.say(
                node.line,
                f"{name} must be a list of lines such as `- {{model: …, dataset: …}}`; got {node.described()}",
            )
            return []
        items: list[Located] = node.value
        for item in items:
            if not isinstance(item.value, dict):
                self.say(item.line, f"a line of {name} must be a mapping; got {item.described()}")
        return [item for item in items if isinstance(item.value, dict)]

    def _refuse_secrets(self) -> None:
        """Whatever the file says is written down beside the results."""
        known = redaction.secrets()
        said = {line for line in self.mistakes if "holds a password" in line}
        for node in self.root.scalars():
            reason = redaction.found_in(node.text, known)
            if reason is not None and not any(each.startswith(f"{self.path}:{node.line}:") for each in said):
                self.say(node.line, f"a value on this line {reason}")

    def _note_ids(self, lines: list[tuple[dict[str, Located], int]]) -> None:
        for entries, line in lines:
            node = entries.get("id")
            if node is None or not node.text or isinstance(node.value, dict | list):
                continue
            if node.text in self.later:
                self.say(node.line, f"id {node.text!r} is already used on line {self.later[node.text]}; ids are unique")
            else:
                self.later[node.text] = line

    # -- one experiment -----------------------------------------------------------

    def _experiment(self, entries: dict[str, Located], line: int) -> Experiment | None:
        section = definitions.Section(Located(entries, line), "an experiment", _LINE, lambda *_: None)
        section.say = self.say
        id = section.get("id")
        if id is not None and not _ID.fullmatch(id):
            self.say(section.line("id"), f"id {id!r} must be letters, digits, '.', '_' and '-'")
        missing = [key for key in _PARTS if key not in entries or entries[key].value is None]
        if missing:
            self.say(line, f"this experiment needs {', '.join(f'`{key}:`' for key in missing)}")
        method, name = section.get("method"), section.get("config")
        if method is not None and method not in definitions.methods():
            self.say(section.line("method"), catalog.unknown("method", method, definitions.methods()))
            method = None
        patch = overrides.read(entries, self.say)
        named = self._named(section, name, method) if name is not None else None
        chosen = self._model(section) if "model" not in missing else None
        dataset = self._dataset(section) if "dataset" not in missing else None
        seed = self._seed(section)
        if method is None or named is None or name is None:
            return None
        trained = chosen.trained if chosen else None
        say = definitions.at(line, self.say)
        merged = overrides.merge(named.patch, patch)
        settings = overrides.compose(merged, method, self.folder, say, trained=trained)
        if chosen is None or dataset is None:
            return None
        self._check_parts(section, chosen.model, dataset, method)
        before = overrides.compose(named.patch, method, self.folder, lambda *_: None, trained=trained)
        config = name + suffix(before, settings)
        start = f"{chosen.model.name}/{dataset.name}/{method}"
        end = f"/seed_{seed}" if "seed" in entries else ""
        harness = f"/{layout.HARNESS}" if method == VANILLA else ""
        training = f"{start}/{named.train_name}{suffix(before, settings, decode=False)}{end}"
        notes = section.get("notes") or ""
        return Experiment(
            id=id,
            model=chosen.model,
            dataset=dataset,
            method=method,
            config=config,
            settings=settings,
            seed=seed,
            seed_written="seed" in entries,
            notes=notes,
            folder=f"{start}{harness}/{config}{end}",
            train_folder=None if method == VANILLA else training,
            line=line,
            title=_title(chosen.model, method, settings),
        )

    def _named(self, section: definitions.Section, name: str, method: str | None) -> Named | None:
        line = section.line("config")
        if self.known.config(name) is None:
            message = catalog.unknown("config", name, self.known.configs)
            self.say(line, message + ". Configs with other settings are defined under `configs:`")
            return None
        named = self.known.resolve(name, self.say)
        if named is None:
            return None
        if method is not None and named.method not in (None, method):
            fitting = [item for item in self.known.configs if _method_of(self.known, item) in (None, method)]
            self.say(
                line,
                f"config {name!r} is for method {named.method}, but the method here is {method}; "
                f"for {method} there are: {', '.join(sorted(fitting)) or 'none'}",
            )
            return None
        return named

    def _seed(self, section: definitions.Section) -> int:
        seed = section.get("seed", int)
        if seed is not None and not 0 <= seed < 2**32:
            self.say(section.line("seed"), f"seed must be between 0 and {2**32 - 1}; got {seed}")
        return seed or 0

    def _dataset(self, section: definitions.Section) -> Dataset | None:
        name = section.get("dataset")
        if name is None:
            return None
        if name in self.known.datasets:
            return self.known.datasets[name]
        if name in definitions.generated():
            return Dataset(name, format=name)
        names = {*self.known.datasets, *definitions.generated()}
        message = catalog.unknown("dataset", name, names)
        self.say(section.line("dataset"), message + ". Your own are defined under `datasets:`")
        return None

    def _model(self, section: definitions.Section) -> _Chosen | None:
        name = section.get("model")
        line = section.line("model")
        if name is None:
            return None
        if name in self.known.models:
            return _Chosen(self.known.models[name])
        in_file = next((item for item in self.experiments if name in (item.id, item.folder)), None)
        if in_file is not None:
            return self._trained_here(in_file, name, line)
        if name in self.later:
            self.say(
                line,
                f"{name} stands below this line, on line {self.later[name]}, or has a mistake; experiments run in "
                "the order of the file, so put it above",
            )
            return None
        found = self._on_disk(name)
        if found is not None:
            return self._trained_before(found, line)
        message = catalog.unknown("model", name, {*self.known.models, *self.later})
        hint = f"`models: {{my-model: {{path: {name}}}}}`" if "/" in name else "`models:`"
        self.say(line, f"{message}. Your own are defined under {hint}; no experiment in {self.output_dir} has this id")
        return None

    def _trained_here(self, experiment: Experiment, name: str, line: int) -> _Chosen | None:
        if experiment.train_folder is None:
            self.say(
                line,
                f"{name} trains nothing (method {experiment.method}); use its model `{experiment.model.name}` instead",
            )
            return None
        undo = experiment.settings.undo
        try:
            same = identity.identity(experiment)
        except (UnsayError, OSError):
            same = None  # a file is missing, which is reported where it is named
        label = experiment.id or _flat(experiment.folder, experiment.model.name)
        model = dataclasses.replace(
            experiment.model,
            name=f"{experiment.model.name}+{label}",
            experiment=experiment.train_folder,
            experiment_identity=same,
        )
        return _Chosen(model, undo.context if undo else None)

    def _on_disk(self, name: str) -> Path | None:
        """Return the folder of a finished experiment by its id, or by its folder (relative to the lab, or a path)."""
        assert self.output_dir is not None
        for place in (self.output_dir / name, self.folder / name, Path(name)):
            if (place / layout.EXPERIMENT).is_file():
                return Path(absolute(place))
        for walked, folders, files in os.walk(self.output_dir):
            inner = {layout.TRAIN, layout.DATA, layout.LOGS} if layout.EXPERIMENT in files else set()
            folders[:] = [
                item
                for item in sorted(folders)
                if item not in inner and item != layout.SUPERSEDED and not item.startswith((".", layout.LIMIT_PREFIX))
            ]
            if layout.EXPERIMENT in files and _read_json(Path(walked, layout.EXPERIMENT)).get("id") == name:
                return Path(walked)
        return None

    def _trained_before(self, folder: Path, line: int) -> _Chosen | None:
        record = _read_json(folder / layout.EXPERIMENT)
        name = record.get("id") or folder.name
        assert self.output_dir is not None
        training = shared.training_folder(folder, self.output_dir)
        train = layout.train(training)
        adapter = _read_json(train / "adapter_config.json")
        if record.get("status") != "completed":
            self.say(line, f"{name} is {record.get('status', 'unreadable')}, not completed; run it first: {folder}")
            return None
        whole = not adapter and (train / "config.json").is_file()  # every weight was trained
        if not adapter and not whole:
            self.say(line, f"{name} has no adapter in {train}; name the experiment that was trained")
            return None
        undo = _read_json(train / layout.UNDO_TABLE)
        base = undo.get("base_model") or {}
        path = base.get("path") or adapter.get("base_model_name_or_path") or (str(train.resolve()) if whole else None)
        if not isinstance(path, str) or not path:
            self.say(
                line,
                f"nothing in {train} names its base model; define a model with `path:` and `adapter: {train}`",
            )
            return None
        written = record.get("model")
        known = self.known.models.get(written) if isinstance(written, str) else None
        if known is None or known.path != path:
            known = Model(str(written), path, revision=base.get("revision") or adapter.get("revision"))
        if known.template is None:  # the one it was trained with
            spec = record.get("spec")
            spec = spec.get("model") if isinstance(spec, dict) else None
            template = spec.get("template") if isinstance(spec, dict) else None
            if template is not None and template not in definitions.templates():
                self.say(
                    line,
                    f"{name} was trained with a .jinja file as its template, and nothing in {folder} says where that "
                    f"is; define its model in this file, under `models:`, as `{written}: {{path: {path}, template: "
                    "FILE.jinja}`",
                )
                return None
            known = dataclasses.replace(known, template=template)
        model = dataclasses.replace(
            known,
            name=f"{known.name}+{record['id'] if record.get('id') else _flat(folder.as_posix(), known.name)}",
            experiment=os.path.relpath(training, self.output_dir).replace(os.sep, "/"),
            experiment_identity=record.get("identity"),
        )
        return _Chosen(model, undo.get("context"))

    # -- what does not go together --------------------------------------------------

    def _check_parts(self, section: definitions.Section, model: Model, dataset: Dataset, method: str) -> None:
        if method == VANILLA:
            return
        if model.adapter or model.experiment:
            self.say(
                section.line("model"),
                f"{method} on a model that has an adapter already ({model.name}) is not "
                "possible; merge the adapter first, or use the base model",
            )
        if reason := definitions.never_trained_on(dataset):
            self.say(section.line("dataset"), reason)
        elif dataset.path is None and dataset.format is None and dataset.task is not None:
            self.say(
                section.line("dataset"),
                f"dataset {dataset.name!r} is an lm-eval task, for evaluation only; {method} "
                "needs a dataset with `path:`",
            )
        elif dataset.is_the_tasks:
            self.say(
                section.line("dataset"),
                f"dataset {dataset.name!r} gives its lines to an lm-eval task as they are, for evaluation only; "
                f"{method} needs one with `format:`",
            )
        elif dataset.is_local and not _has_train_split(dataset):
            self.say(
                section.line("dataset"),
                f"dataset {dataset.name!r} has nothing to train on: there is no train.jsonl in {dataset.path}; add one",
            )
        elif dataset.is_local and not dataset.dev_share and not _has_test_split(dataset):
            self.say(
                section.line("dataset"),
                f"dataset {dataset.name!r} has nothing to evaluate on but its training "
                "questions; add a test.jsonl, or `dev_share: 0.05` to keep some out of training",
            )

    def _check_together(self) -> None:
        folders: dict[str, Experiment] = {}
        greedy: dict[str, Experiment] = {}
        for experiment in self.experiments:
            # Folders that differ in upper and lower case only are one folder on some file systems.
            other = folders.setdefault(experiment.folder.casefold(), experiment)
            if other is not experiment:
                self.say(
                    experiment.line,
                    f"the experiment on line {other.line} already has the folder {experiment.folder}; "
                    "give one another config, setting or seed",
                )
            if experiment.method == VANILLA and not experiment.settings.decode.do_sample:
                key = identity.sha256_of([experiment.model.name, experiment.dataset.name, experiment.settings])
                same = greedy.setdefault(key, experiment)
                if same.seed != experiment.seed:
                    self.say(
                        experiment.line,
                        "greedy vanilla gives the same answers with every seed (the one on line "
                        f"{same.line} has seed {same.seed}); remove the seeds, or set do_sample: true",
                    )
        for folder, experiment in folders.items():
            for parent in _parents(folder):
                around = folders.get(parent)
                below = folder[len(parent) + 1 :]
                if around is not None and not re.fullmatch(r"seed_\d+", below):
                    self.say(
                        experiment.line,
                        f"the folder {experiment.folder} would lie inside that of the experiment on "
                        f"line {around.line}; give one another config name",
                    )


def _combinations(entries: Mapping[str, Located]) -> Iterator[dict[str, Located]]:
    axes = [[(key, item) for item in _axis(key, node)] for key, node in entries.items()]
    for combination in itertools.product(*axes):
        yield dict(combination)


def _axis(key: str, node: Located) -> list[Located]:
    """Return the values of one key of a matrix entry: a list's items, inside `decode:` and `undo:` too."""
    if isinstance(node.value, list):
        return [
            value for item in node.value for value in (_axis(key, item) if isinstance(item.value, dict) else [item])
        ]
    if isinstance(node.value, dict) and key in ("decode", "undo"):
        return [dataclasses.replace(node, value=inner) for inner in _combinations(node.value)]
    return [node]


def _count(entries: Mapping[str, Located]) -> int:
    return math.prod(_axis_length(key, node) for key, node in entries.items())


def _axis_length(key: str, node: Located) -> int:
    if isinstance(node.value, list):
        return sum(_axis_length(key, item) if isinstance(item.value, dict) else 1 for item in node.value)
    if isinstance(node.value, dict) and key in ("decode", "undo"):
        return _count(node.value)
    return 1


def _empty_axes(entries: Mapping[str, Located]) -> list[str]:
    return [key for key, node in entries.items() if _axis_length(key, node) == 0]


def _method_of(known: Definitions, name: str) -> str | None:
    named = known.resolve(name, lambda *_: None)
    return named.method if named else None


def _has_train_split(dataset: Dataset) -> bool:
    place = Path(dataset.path or "")
    return not place.is_dir() or _has_split(place, "train") or not _has_split(place, "test", "dev")


def _has_test_split(dataset: Dataset) -> bool:
    return _has_split(Path(dataset.path or ""), "test", "dev")


def _has_split(folder: Path, *splits: str) -> bool:
    return any((folder / f"{split}.{end}").is_file() for split in splits for end in ("jsonl", "json"))


def _parents(folder: str) -> Iterator[str]:
    parts = folder.split("/")
    for length in range(len(parts) - 1, 0, -1):
        yield "/".join(parts[:length])


def _flat(folder: str, model: str) -> str:
    """Return an experiment's folder as one word without the model's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", folder.split(f"{model}/", 1)[-1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _title(model: Model, method: str, settings: Settings) -> str:
    """Return the heading of an experiment's details, such as `Qwen3-4B SFT with LoRA + Backtrack`."""
    shown = model.name if model.is_local else model.path.rpartition("/")[2]
    if model.experiment is not None and not model.is_local:
        shown = f"{shown} after {model.name.rpartition('+')[2]}"
    if method == VANILLA:
        return f"{shown} Vanilla Evaluation"
    if method == SFT:
        undo = settings.undo
        masks = {"errors": "", "none": " (unmasked)"}
        kind = "" if undo is None else " + Backtrack" + masks.get(undo.mask, f" (mask {undo.mask})")
        training = settings.training or Training()
        how = "Full SFT" if training.finetuning_type == "full" else "SFT with LoRA"
        how = "SFT with QLoRA" if training.quantization_bit else how
        return f"{shown} {how}{kind}"
    return f"{shown} {method}"


def _by_line(mistake: str) -> tuple[str, int]:
    match = re.match(r"(.*?):(\d+): ", mistake)
    return (match[1], int(match[2])) if match else ("", 0)
