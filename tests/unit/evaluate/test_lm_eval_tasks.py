"""How a dataset becomes an lm-eval task: its own configuration, with nothing but the data, shots and budget swapped."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml

from unsay.data.source import Source
from unsay.datasets.gsm8k import Gsm8k
from unsay.errors import EvaluationError
from unsay.evaluate.lm_eval_tasks import asked, check_lines, load_task, plain_task, question_prompts, task_config
from unsay.metrics import exact_match
from unsay.records import Example
from unsay.settings import Decode, Prompting

TASKS = Path(lm_eval.tasks.__file__).parent
SWAPPED = {"dataset_path", "dataset_name", "dataset_kwargs", "num_fewshot", "generation_kwargs"}


def gsm8k(*splits: str) -> Source:
    files = {split: Path(f"/data/{split}.jsonl") for split in splits}
    return Source("gsm8k", Gsm8k(), "gsm8k", files, None if files else "openai/gsm8k")


def stock(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((TASKS / path).read_text()))


def test_gsm8k_is_lm_evals_own_task_with_the_data_swapped() -> None:
    config = task_config(gsm8k("train", "test"), Prompting(num_fewshot=8), Decode(max_new_tokens=256))
    theirs = stock("gsm8k/gsm8k.yaml")
    assert {key: value for key, value in config.items() if key not in SWAPPED} == {
        key: value for key, value in theirs.items() if key not in SWAPPED
    }
    assert {key: config[key] for key in SWAPPED} == {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"train": "/data/train.jsonl", "test": "/data/test.jsonl"}},
        "num_fewshot": 8,
        "generation_kwargs": theirs["generation_kwargs"] | {"max_gen_toks": 256},
    }


def test_gsm8k_from_the_hub_keeps_its_place() -> None:
    config = task_config(gsm8k(), Prompting(), Decode())
    assert (config["dataset_path"], config["dataset_name"]) == ("openai/gsm8k", "main")
    assert "dataset_kwargs" not in config


def test_without_a_training_split_shots_come_from_the_scored_one() -> None:
    config = task_config(gsm8k("test"), Prompting(num_fewshot=2), Decode())
    assert (config["training_split"], config["fewshot_split"], config["test_split"]) == (None, "test", "test")


def test_loading_twice_gives_two_configurations() -> None:
    first = task_config(gsm8k("test"), Prompting(), Decode(stop=("\n\n",), max_new_tokens=7))
    second = load_task("gsm8k")
    assert first["generation_kwargs"]["until"] == ["\n\n"]
    assert "Question:" in second["generation_kwargs"]["until"]
    assert "max_gen_toks" not in second["generation_kwargs"]


def test_decoding_is_written_into_the_task() -> None:
    greedy = task_config(gsm8k("test"), Prompting(), Decode())["generation_kwargs"]
    assert (greedy["do_sample"], greedy["temperature"], "top_p" in greedy) == (False, 0.0, False)
    decode = Decode(do_sample=True, temperature=0.95, top_p=0.7, top_k=50, max_new_tokens=1024)
    sampled = task_config(gsm8k("test"), Prompting(), decode)["generation_kwargs"]
    assert {key: sampled[key] for key in ("do_sample", "temperature", "top_p", "top_k", "max_gen_toks")} == {
        "do_sample": True, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_gen_toks": 1024,
    }  # fmt: skip


def test_our_scorers_defaults_are_the_tasks_own() -> None:
    """The metric is defined for files without a task beside them; this is where the two definitions meet."""
    config = load_task("gsm8k")
    patterns = {item["name"]: item["filter"][0]["regex_pattern"] for item in config["filter_list"]}
    assert patterns == {
        "strict-match": exact_match.GSM8K_STRICT,
        "flexible-extract": exact_match.GSM8K_FLEXIBLE,
    }
    assert tuple(config["metric_list"][0]["regexes_to_ignore"]) == exact_match.GSM8K_IGNORED


# -- other tasks ------------------------------------------------------------------


def test_a_task_is_found_by_name_with_what_it_includes() -> None:
    config = load_task("mgsm_direct_de")
    assert stock("mgsm/direct/mgsm_direct_de.yaml")["include"]
    assert "include" not in config
    assert config["task"] == "mgsm_direct_de"
    assert config["dataset_path"] == "juletxara/mgsm"
    assert config["output_type"] == "generate_until"
    assert config["filter_list"]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that lm-eval's tasks are looked for in."""
    monkeypatch.setattr(lm_eval.tasks, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path


def test_functions_of_a_task_are_there(tasks: Path) -> None:
    folder = tasks / "elsewhere" / "deep"
    folder.mkdir(parents=True)
    (folder / "base").write_text("dataset_path: json\noutput_type: generate_until\nmetadata: {version: 2}\n")
    (folder / "shout.py").write_text("def text(doc):\n    return doc['question'].upper()\n")
    (folder / "any.yaml").write_text("include: base\ntask: 'mine'\ndoc_to_text: !function shout.text\n")
    config = load_task("mine")
    assert config["metadata"] == {"version": 2}
    source = Source("mine", None, "mine", {}, None)
    assert question_prompts(source, [Example("0", "a?", "b")]) == ["A?"]


def test_a_task_that_does_not_load_says_what_it_needs(tasks: Path) -> None:
    (tasks / "mine").mkdir()
    (tasks / "mine" / "own.py").write_text("import a_library_that_is_not_here\n")
    (tasks / "mine" / "mine.yaml").write_text("task: mine\noutput_type: generate_until\ndoc_to_text: !function own.f\n")
    with pytest.raises(
        EvaluationError, match=r"task 'mine': expected mine\.yaml .*a_library_that_is_not_here.*Install"
    ):
        load_task("mine")


def test_a_name_inside_another_is_not_found(tasks: Path) -> None:
    (tasks / "mine").mkdir()
    (tasks / "mine" / "mine.yaml").write_text("task: mine_too\noutput_type: generate_until\n")
    with pytest.raises(EvaluationError, match=r"lm-eval has no task 'mine'.*`lm_eval ls tasks`"):
        load_task("mine")


def test_a_task_that_generates_nothing_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'hellaswag' scores 'multiple_choice'; expected a task that generates"):
        load_task("hellaswag")


def test_a_users_own_task_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: mine\noutput_type: generate_until\ndoc_to_text: '{{question}}'\n")
    assert load_task(str(file))["task"] == "mine"


def test_a_task_file_need_not_say_that_it_generates_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: mine\ndoc_to_text: '{{question}}'\n")
    assert load_task(str(file))["output_type"] == "generate_until"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("doc_to_text: q\n", "expected one task with its name behind `task:`, got None"),
        ("group: g\ntask: [a, b]\n", r"expected one task with its name behind `task:`, got \['a', 'b'\]"),
        ("task: m\nunsafe_code: true\n", "runs the model's code on this machine"),
        ("task: m\ndoc_to_image: picture\n", "shows pictures; expected one of text alone"),
    ],
)
def test_what_is_no_single_task_of_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        load_task(str(file))


# -- other tasks on local lines -----------------------------------------------------


def on_files(folder: Path, text: str, *splits: str) -> dict[str, Any]:
    file = folder / "mine.yaml"
    file.write_text(f"task: mine\ndataset_path: someone/else\ndataset_name: all\n{text}")
    source = Source("mine", None, str(file), {split: Path(f"/data/{split}.jsonl") for split in splits}, None)
    return task_config(source, Prompting(), Decode())


@pytest.mark.parametrize(
    ("task", "splits", "files", "scored", "shots"),
    [
        # what is scored has the task's own name for it
        ("test_split: test\n", ["test"], {"test": "test"}, "test", "test"),
        ("validation_split: val\n", ["test"], {"val": "test"}, "val", "val"),
        ("test_split: main\nvalidation_split: val\n", ["test"], {"main": "test"}, "main", "main"),
        # shots from where the task takes them, from other training lines, else from what is scored
        ("test_split: test\ntraining_split: auxiliary\n", ["train", "test"],
         {"auxiliary": "train", "test": "test"}, "test", "auxiliary"),
        ("test_split: test\nfewshot_split: dev\n", ["dev", "test"], {"dev": "dev", "test": "test"}, "test", "dev"),
        ("test_split: test\nfewshot_split: dev\n", ["train", "test"],
         {"train": "train", "test": "test"}, "test", "train"),
        ("test_split: test\nfewshot_split: dev\n", ["test"], {"test": "test"}, "test", "test"),
        ("test_split: test\nfewshot_config: {split: dev}\n", ["test"], {"test": "test"}, "test", "test"),
    ],
)  # fmt: skip
def test_local_lines_take_the_place_of_a_tasks_own(
    tmp_path: Path, task: str, splits: list[str], files: dict[str, str], scored: str, shots: str
) -> None:
    config = on_files(tmp_path, task, *splits)
    assert (config["dataset_path"], config["dataset_name"]) == ("json", None)
    assert config["dataset_kwargs"] == {"data_files": {name: f"/data/{split}.jsonl" for name, split in files.items()}}
    assert config["test_split"] == scored
    assert (config.get("fewshot_config") or {}).get("split", config["fewshot_split"]) == shots
    named = {key: config.get(key) for key in ("training_split", "validation_split", "fewshot_split")}
    assert {value for value in named.values() if value is not None} <= set(files)


def test_worked_examples_that_a_task_brings_stay(tmp_path: Path) -> None:
    task = "test_split: test\nfewshot_config: {sampler: first_n, samples: [{q: a}, {q: b}]}\n"
    config = on_files(tmp_path, task, "test")
    assert (config["fewshot_config"]["samples"], config.get("fewshot_split")) == ([{"q": "a"}, {"q": "b"}], None)
    source = Source("mine", None, str(tmp_path / "mine.yaml"), {}, None)
    assert task_config(source, Prompting(num_fewshot=2), Decode())["num_fewshot"] == 2
    with pytest.raises(EvaluationError, match=r"brings 2 worked examples.*num_fewshot 3\. Use config fewshot_2"):
        task_config(source, Prompting(num_fewshot=3), Decode())


def test_a_task_without_a_scored_split_takes_no_lines(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="names no split that is scored"):
        on_files(tmp_path, "training_split: train\n", "test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"problem": "1?"}, {"problem": "2?"}], None),
        ([{"question": "1?"}], r"test\.jsonl: KeyError: 'problem'.*the first line has question, a\."),
        ([{"problem": "1?"}, {"problem": ["2?"]}], r"cannot read the lines of .*with one kind of value each"),
    ],
)
def test_lines_that_a_task_cannot_read_are_named(
    tmp_path: Path, lines: list[dict[str, Any]], message: str | None
) -> None:
    (tmp_path / "own.py").write_text("def text(doc):\n    return doc['problem'].strip()\n")
    task = "test_split: test\ndoc_to_text: !function own.text\ndoc_to_target: a\n"
    config = on_files(tmp_path, task, "test")
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(line | {"a": "1"}) + "\n" for line in lines))
    config["dataset_kwargs"] = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    before = dict(config)
    source = Source("mine", None, "mine", {"test": file}, None)
    if message is None:
        check_lines(config, source)
        assert config == before
    else:
        with pytest.raises(EvaluationError, match=message):
            check_lines(config, source)


def test_a_hub_path_is_where_a_tasks_questions_come_from(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\ndataset_path: someone/else\ndataset_name: all\ntest_split: test\n")
    source = Source("mine", Gsm8k(), str(tmp_path / "mine.yaml"), {}, "org/data")
    config = task_config(source, Prompting(), Decode())
    assert (config["dataset_path"], config["dataset_name"], config["dataset_kwargs"]) == ("org/data", None, None)


def test_a_question_is_what_the_task_asks() -> None:
    doc = {"question": "{{1}}?", "passage": "P"}
    assert asked({"doc_to_text": "question"}, doc) == "{{1}}?"
    assert asked({"doc_to_text": "{{passage}}: {{question}}"}, doc) == "P: {{1}}?"
    assert asked({"doc_to_text": lambda doc: doc["passage"]}, doc) == "P"
    assert asked({"doc_to_text": lambda doc: 3}, doc) is None
    assert asked({"doc_to_text": None}, doc) is None


# -- data of the user's own -------------------------------------------------------


def test_own_data_asks_the_question_as_it_stands() -> None:
    source = Source("my data/v2", Gsm8k(), None, {"test": Path("/data/test.jsonl")}, None)
    config = task_config(source, Prompting(), Decode())
    assert config["task"] == "my_data_v2"
    assert config["generation_kwargs"]["until"] == []
    assert [item["name"] for item in config["filter_list"]] == ["strict-match"]
    question = "{{7 * 7}} {% if x %} \n trailing \n"
    assert question_prompts(source, [Example("0", question, "a")]) == [question]


def test_an_answer_pattern_adds_the_flexible_reading() -> None:
    source = Source("own", Gsm8k(), None, {}, None, answer=r"Answer: (\w+)")
    readings = {item["name"]: item["filter"][0] for item in plain_task(source)["filter_list"]}
    assert readings["strict-match"]["regex_pattern"] == r"Answer: (\w+)"
    assert readings["flexible-extract"]["group_select"] == -1


def test_training_prompts_are_the_tasks_own() -> None:
    prompts = question_prompts(gsm8k("train", "test"), [Example("0", "{{1 + 1}}?", "2"), Example("1", "b?", "c")])
    assert prompts == ["Question: {{1 + 1}}?\nAnswer:", "Question: b?\nAnswer:"]


def test_the_loader_that_is_used_is_the_one_the_default_manager_uses() -> None:
    """It is a private name of lm-eval: this fails first when it moves."""
    source = (TASKS / "_index.py").read_text() + (TASKS / "_factory.py").read_text()
    names = {
        alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert "load_yaml" in names
    assert re.search(r"def load_yaml\(", (TASKS / "_yaml_loader.py").read_text())
