"""How a dataset becomes an lm-eval task: its own configuration, with nothing but the data, shots and budget swapped."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml

from unsay.data.source import Source
from unsay.datasets.gsm8k import Gsm8k
from unsay.errors import EvaluationError
from unsay.evaluate.lm_eval_tasks import load_task, plain_task, question_prompts, task_config
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
