"""Where a dataset's questions come from: its splits, its format, and the lm-eval task that goes with it.

    source = open_source(experiment.dataset, output_dir)
    for example in source.examples("train"): ...

Generated and own data are written once, as plain question/answer lines, below the lab's `.datasets` folder, so that
lm-eval and training read the very same files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unsay import catalog
from unsay.config import Dataset
from unsay.datasets import DatasetFormat
from unsay.definitions import never_trained_on
from unsay.errors import DataError
from unsay.records import Example
from unsay.store.write import write_text

ORIGINAL = ("original_question", "original_answer", "original_id")
"""GSM-Symbolic's columns with GSM8K's test questions and answers."""

FOLDER = ".datasets"
DEFAULT_FORMAT = GSM8K = "gsm8k"
GSM8K_HUB = "openai/gsm8k"
"""Where lm-eval's own gsm8k task takes its questions from."""

# What pyarrow's JSON reader, and with it lm-eval, takes for a point in time if a whole column looks like it.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?Z?)?")


@dataclass(frozen=True)
class Source:
    """A dataset with its splits found. Exactly one of `files` (split -> JSONL) and `hub` is filled, or neither when
    an lm-eval task brings its own data. Without a `format` the lines are as the task wants them."""

    name: str
    format: DatasetFormat | None
    task: str | None
    files: dict[str, Path]
    hub: str | None
    answer: str | None = None
    generated: bool = False
    """Made by this package, its splits kept apart by how they are made."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield a split's questions in file order; raises DataError on a line that does not fit."""
        if self.format is None:
            raise DataError(
                f"dataset {self.name!r} is an lm-eval task, for evaluation only. Expected a dataset with a `path:` "
                "and a `format:`."
            )
        for number, line in self._lines(split):
            yield self.format.example(line, f"{self.name}/{split}/{number}")

    def _lines(self, split: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        if self.files:
            if split in self.files:
                yield from read_jsonl(self.files[split])
            return
        yield from hub_lines(str(self.hub), split)


def open_source(dataset: Dataset, output_dir: Path) -> Source:
    """Find a dataset's splits; raises DataError when a file or split is missing."""
    if dataset.task and not dataset.path:
        return Source(dataset.name, None, dataset.task, {}, None)
    if dataset.path is None:
        return _generated(dataset, output_dir)
    if dataset.is_the_tasks:
        return Source(dataset.name, None, dataset.task, _scored_files(Path(dataset.path)), None)
    reader = _format(dataset.format or DEFAULT_FORMAT, dataset.columns)
    # An answer pattern of one's own replaces the extraction, and with it the task, that a format goes with.
    task = dataset.task or (None if dataset.answer else reader.task)
    path = Path(dataset.path)
    if not path.exists():
        source = Source(dataset.name, reader, task, {}, dataset.path, dataset.answer)
        # A task scores its own questions: what is in GSM8K's format but not GSM8K is written out for it.
        is_the_tasks = task is not None and (task != GSM8K or dataset.path == GSM8K_HUB)
        return source if is_the_tasks else _normalised(source, dataset, output_dir)
    files = _split_files(path)
    source = Source(dataset.name, reader, task, files, None, dataset.answer)
    if task == GSM8K and not _has_final_answers(source):
        source = replace(source, task=None)
    if source.task == GSM8K and not dataset.columns and not dataset.dev_share and "test" in files:
        return source
    return _normalised(source, dataset, output_dir)


def training_examples(source: Source, dataset: Dataset) -> Iterator[Example]:
    """Yield the questions to train on; raise DataError for data that is for evaluation only.

    GSM-Symbolic is refused by name, and by the columns in which it keeps the questions of GSM8K's test split.
    """
    if (reason := never_trained_on(dataset)) is not None:
        raise DataError(reason)
    if dataset.path is not None:
        path = Path(dataset.path)
        files = _split_files(path) if path.exists() else {}
        raw = read_jsonl(files["train"]) if "train" in files else iter(()) if files else hub_lines(str(path), "train")
        for number, line in raw:
            if found := [key for key in ORIGINAL if key in line]:
                raise DataError(
                    f"{dataset.name}, line {number + 1}: expected questions to train on, got the column {found[0]!r} "
                    "of GSM-Symbolic, whose questions are made from GSM8K's test questions; it is for evaluation only"
                )
    yield from source.examples("train")


def hub_lines(
    hub: str, split: str, config: str | None = None, files: Any = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield a hub dataset's rows; nothing for a split it does not have. Without `config`: main, else the first.

    With `files`, a task's own `data_files`, `hub` may also be one of the library's readers, such as json.
    """
    import datasets as hf_datasets

    if files is not None:
        yield from enumerate(hf_datasets.load_dataset(hub, config, data_files=files, split=split))
        return
    if config is None:
        names = hf_datasets.get_dataset_config_names(hub)
        config = "main" if "main" in names else names[0]
    if split in hf_datasets.get_dataset_split_names(hub, config):
        yield from enumerate(hf_datasets.load_dataset(hub, config, split=split))


def _has_final_answers(source: Source) -> bool:
    """Say whether the gold answers end in `#### N`, as GSM8K's do; raises DataError when only some of them do."""
    marked = {"####" in example.answer: example for split in source.files for example in source.examples(split)}
    if len(marked) == 2:
        raise DataError(
            f"{marked[False].id}: expected a gold answer that ends in '#### N', as the others do, got "
            f"{marked[False].answer[-60:]!r}. Add the line, or say where the final answer stands with `answer:`."
        )
    return True in marked


def read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number from 0, object) of a JSON Lines file, or of a JSON file that holds one list.

    Raises DataError naming file and line.
    """
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error
        except ValueError as error:
            raise DataError(f"{path}: expected JSON, got {error}.") from error
        if not isinstance(content, list):
            raise DataError(f"{path}: expected a JSON list of objects, got {type(content).__name__}.")
        rows: Iterable[tuple[int, Any]] = enumerate(content)
        yield from ((number, _object(row, path, number)) for number, row in rows)
        return
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, text in enumerate(file):
                if text.strip():
                    yield number, _object(_parsed(text, path, number), path, number)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}:{number + 1}: expected one JSON object per line, got {error}.") from error


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}: expected text in UTF-8, got other bytes ({error.reason}). Save the file as UTF-8.")


def _object(row: Any, path: Path, number: int) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{path}:{number + 1}: expected a JSON object, got {type(row).__name__}.")
    return row


def _format(name: str, columns: Mapping[str, str]) -> DatasetFormat:
    plugin = catalog.plugin("datasets", name)
    try:
        return plugin(**columns)  # type: ignore[no-any-return]
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(plugin))
        raise DataError(f"format {name!r} has the columns {known}; got {', '.join(columns)}.") from error


def _generated(dataset: Dataset, output_dir: Path) -> Source:
    """Write a dataset that this package generates (once) and return it."""
    module = catalog.load("datasets", dataset.format or dataset.name)
    if not hasattr(module, "write"):
        raise DataError(f"dataset {dataset.name!r} needs a `path:`: a hub id, a folder or a .jsonl file.")
    folder = output_dir / FOLDER / dataset.name
    module.write(folder)
    files = {split: folder / f"{split}.jsonl" for split in ("train", "dev", "test")}
    return Source(dataset.name, _format(DEFAULT_FORMAT, {}), GSM8K, files, None, generated=True)


def _split_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    files = {
        split: file
        for split in ("train", "dev", "test")
        for suffix in (".json", ".jsonl")
        if (file := path / f"{split}{suffix}").is_file()
    }
    if not files:
        raise DataError(f"{path}: expected train.jsonl and test.jsonl in this folder, found neither.")
    return files


def _scored_files(path: Path) -> dict[str, Path]:
    """Return the files of data that is only evaluated on: a single one is what is scored."""
    if not path.exists():
        raise DataError(f"expected a file or a folder with test.jsonl at {path}, found nothing there.")
    files = _split_files(path)
    if "test" not in files:
        files["test"] = files.pop("dev") if "dev" in files else files.pop("train")
    return files


def _normalised(source: Source, dataset: Dataset, output_dir: Path) -> Source:
    """Write question/answer lines (and the extracted final answer) for every split, splitting off a part if asked."""
    splits = {split: list(source.examples(split)) for split in source.files or ("train", "dev", "test")}
    if source.hub:  # a hub dataset need not have all of them
        splits = {split: rows for split, rows in splits.items() if rows} or {"test": []}
    if dataset.dev_share:
        train = splits.get("train", [])
        held_out = {example.id for example in train if _draw(example.question) < dataset.dev_share}
        splits = {
            "train": [example for example in train if example.id not in held_out],
            "test": [example for example in train if example.id in held_out],
        }
    elif "test" not in splits:
        splits["test"] = splits.pop("dev") if "dev" in splits else splits.pop("train")
    lines = {split: [_line(example, dataset.answer) for example in rows] for split, rows in splits.items()}
    texts = {split: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines[split]) for split in lines}
    for split, content in texts.items():
        if not content:
            raise DataError(f"dataset {source.name!r}: split {split!r} is empty. Give more lines or another dev_share.")
        if all(_DATE.fullmatch(line["final"]) for line in lines[split]):
            raise DataError(
                f"dataset {source.name!r}: expected final answers, got nothing but dates such as "
                f"{lines[split][0]['final']!r} in split {split!r}, which lm-eval reads as points in time. Write them "
                "with a word before them, such as 'on 2024-01-05'."
            )
    digest = hashlib.sha256("\0".join(texts[split] for split in sorted(texts)).encode()).hexdigest()[:12]
    folder = output_dir / FOLDER / f"{source.name}-{digest}"
    files = {split: folder / f"{split}.jsonl" for split in texts}
    for split, path in files.items():
        if not path.is_file():
            write_text(path, texts[split])
    return Source(source.name, _format(DEFAULT_FORMAT, {}), source.task, files, None, source.answer)


def _line(example: Example, answer: str | None) -> dict[str, str]:
    final = example.answer
    if answer is not None:
        match = re.search(answer, example.answer)
        if match is None or match.group(1) is None:
            raise DataError(
                f"{example.id}: expected the answer pattern {answer!r} in the gold answer, got "
                f"{example.answer[-60:]!r}. Change `answer:` or the line."
            )
        final = match.group(1)
    # Without the white space around it, as answers are compared.
    return {"question": example.question, "answer": example.answer, "final": final.strip()}


def _draw(question: str) -> float:
    """Return a number in [0, 1) from the question alone: adding rows never moves one to the other split."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") / 2**64
