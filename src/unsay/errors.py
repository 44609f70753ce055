"""The exceptions unsay raises on purpose.

    UnsayError                something the user can act on; the command line prints it without a traceback
    ├── ConfigError           an experiment file (or a setting on a command line) is wrong; holds every mistake found
    ├── DataError             a dataset, a line of a file or a training row is wrong
    ├── ModelError            a model, adapter or tokenizer cannot be used
    ├── UndoError             a trace breaks the rules of undo
    ├── StoreError            a result folder cannot be read or written
    │   ├── LockedError       another process is writing this folder
    │   └── ClaimLostError    another process took over what this one was writing
    ├── ExecutorError         where experiments should run refuses them, or does not answer
    ├── TrainingError         training cannot go on
    │   └── ProcessLostError  one of several training processes was killed
    └── EvaluationError       an evaluation cannot be trusted or cannot go on
        └── ServerError       a server that generates is not there, or does not give what is needed

Every message says what was expected, what came, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class UnsayError(Exception):
    """Base class: expected, got, what to do next."""


class ConfigError(UnsayError):
    """Raise with all mistakes at once; `mistakes` keeps them one by one."""

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes: tuple[str, ...] = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        count = len(self.mistakes)
        head = "" if count == 1 else f"{count} mistakes:\n"
        super().__init__(head + "\n".join(self.mistakes))


class DataError(UnsayError):
    """A dataset, a line of a file or a training row is wrong."""


class ModelError(UnsayError):
    """A model, adapter or tokenizer cannot be used."""


class UndoError(UnsayError):
    """A trace breaks the rules of undo."""


class StoreError(UnsayError):
    """A result folder cannot be read or written."""


class LockedError(StoreError):
    """Another process is writing this folder."""


class ClaimLostError(StoreError):
    """Another process took over the folder that this one was writing."""


class ExecutorError(UnsayError):
    """Where experiments should run refuses them, or does not answer."""


class TrainingError(UnsayError):
    """Training cannot go on."""


class ProcessLostError(TrainingError):
    """One of the processes of a training was killed from outside."""


class EvaluationError(UnsayError):
    """An evaluation cannot be trusted or cannot go on."""


class ServerError(EvaluationError):
    """A server that generates answers is not there, or does not give what is needed."""


_LASTING = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
_PASSING_NAMES = {"ConnectionError", "Timeout", "TransportError", "OutOfMemoryError"}
"""What libraries call their errors, which are not imported here."""


def may_pass(error: BaseException) -> bool:
    """Say whether trying again may help: memory, the operating system, a connection, a server, a killed process.

    A mistake in a file, in data or in a model stays one. An error of ours counts as what caused it.
    """
    if isinstance(error, MemoryError | ServerError | ProcessLostError | TimeoutError):
        return True
    if "out of memory" in str(error).lower() or _PASSING_NAMES & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if isinstance(error, UnsayError):
        return error.__cause__ is not None and may_pass(error.__cause__)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, _LASTING)
