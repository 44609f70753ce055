"""Where a run carries its experiments out: an executor and its options, as files and the command line say them.

    executor: slurm                                            # in an experiment file: a name,
    executor: cluster.yaml                                     # a profile (this mapping in a file of its own),
    executor: {name: slurm, partition: gpu, time: "4:00:00"}   # or a mapping
    executor: {profile: cluster.yaml, time: "8:00:00"}         # what stands beside a profile goes over it

    choose(plan.placement, "slurm", ["partition=debug"]).executor()

What is said on the command line goes over the file, and options only ever reach the executor they were written for.
Nothing of it is part of an experiment's identity. What an executor does is unknown here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unsay import catalog, located, overrides, redaction
from unsay.errors import ConfigError, UnsayError
from unsay.located import Located
from unsay.overrides import Say, Written

DEFAULT = "local"

_KEYS = ("name", "profile")
_PROFILE_ENDS = (".yaml", ".yml")


@dataclass(frozen=True)
class Placement:
    """The name of a file in `executors/`, and the options that were written for it."""

    name: str = DEFAULT
    options: Mapping[str, Any] = field(default_factory=dict)

    def executor(self) -> Any:
        """Return the executor (`unsay.executors.Executor`); raise ConfigError where its options are wrong."""
        return catalog.plugin("executors", self.name)(**self.options)


def choose(file: Placement | None, executor: str | None, options: Sequence[str]) -> Placement:
    """Return what the command line (`--executor`, `--option`) makes of what the experiment file says.

    Raises ConfigError with every mistake.
    """
    placement = file or Placement()
    if executor is not None:
        named = profile(Path(executor)) if is_profile(executor) else Placement(_known(executor))
        placement = _over(placement, named)
    placement = _over(placement, Placement(placement.name, _from_command_line(placement.name, options)))
    placement.executor()
    return placement


def is_profile(text: str) -> bool:
    """Say whether a text names a file rather than an executor."""
    return text.endswith(_PROFILE_ENDS)


def profile(path: Path) -> Placement:
    """Read a profile; raises ConfigError with every mistake."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read: {error}"
        raise ConfigError(
            f"{path}: {why}. Expected a profile: a YAML file with `name:` (there are: "
            f"{', '.join(catalog.names('executors'))}) and options of that executor."
        ) from None
    root, mistakes = located.read(text, str(path))

    def say(line: int, message: str) -> None:
        mistakes.append(f"{path}:{line}: {message}")

    for node in root.scalars():
        if reason := redaction.found_in(node.text, redaction.secrets()):
            say(node.line, f"a value on this line {reason}")
    if "profile" in root.mapping():
        say(root.mapping()["profile"].line, "a profile cannot name another one; remove `profile:`")
    found = read(root, path.expanduser().parent, say) if not mistakes else None
    if found is None or mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    return found


def read(node: Located, folder: Path, say: Say) -> Placement | None:
    """Return what a file's `executor:` says; None after saying what is wrong. Files in it are relative to `folder`."""
    if isinstance(node.value, str):
        return _named(node, say) if not is_profile(node.text) else _profile(node, folder, say)
    if not isinstance(node.value, dict):
        say(node.line, f"executor must be a name, a profile (a YAML file) or a mapping; got {node.described()}")
        return None
    entries = node.mapping()
    below = named = None
    if "profile" in entries and (below := _profile(entries["profile"], folder, say)) is None:
        return None
    if "name" in entries and (named := _named(entries["name"], say)) is None:
        return None
    if below is None and named is None:
        say(node.line, f"executor needs `name:` or `profile:`; there are: {', '.join(catalog.names('executors'))}")
        return None
    name = (named or below or Placement()).name
    written = {key: Written(item, item.line) for key, item in entries.items() if key not in _KEYS}
    options = _read_options(name, written, folder, say, node.line)
    if options is None:
        return None
    placement = _over(below or Placement(name), Placement(name, options))
    try:
        placement.executor()
    except ConfigError as error:
        for mistake in error.mistakes:
            say(node.line, mistake)
    return placement


def _over(base: Placement, over: Placement) -> Placement:
    kept = base.options if base.name == over.name else {}
    return Placement(over.name, {**kept, **over.options})


def _read_options(
    name: str, written: Mapping[str, Written], folder: Path, say: Say, line: int
) -> dict[str, Any] | None:
    try:
        owner = catalog.plugin("executors", name)
    except (UnsayError, ImportError) as error:
        say(line, f"executor {name}: {error}")
        return None
    return overrides.plugin_options(owner, written, folder, say, what=f"executor: ({name})", beside=_KEYS)


def _profile(node: Located, folder: Path, say: Say) -> Placement | None:
    try:
        return profile(folder / Path(node.text).expanduser())
    except ConfigError as error:
        for mistake in error.mistakes:
            say(node.line, mistake)
    return None


def _named(node: Located, say: Say) -> Placement | None:
    try:
        return Placement(_known(node.text or node.described()))
    except ConfigError as error:
        say(node.line, str(error))
    return None


def _known(name: str) -> str:
    if name in catalog.names("executors"):
        return name
    raise ConfigError(
        catalog.unknown("executor", name, catalog.names("executors")) + "; a profile is a file that ends in .yaml"
    )


def _from_command_line(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the values of `KEY=VALUE` texts, the value in YAML."""
    mistakes: list[str] = []
    written: dict[str, Written] = {}
    for text in options:
        key, equals, value = text.partition("=")
        node, wrong = located.read(value, f"--option {text}")
        if not key or not equals or not value.strip():
            mistakes.append(f"--option {text}: expected KEY=VALUE, such as time=30")
        elif wrong:
            mistakes.append(f"--option {text}: the value is not YAML; put it in quotes: {key}='\"…\"'")
        else:
            written[key] = Written(node, 0)

    def say(_: int, message: str) -> None:
        mistakes.append(f"--option: {message}")

    values = _read_options(name, written, Path.cwd(), say, 0)
    if mistakes or values is None:
        raise ConfigError(mistakes)
    return values
