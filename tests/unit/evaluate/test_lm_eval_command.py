"""Our engine as a model of lm-eval's command line: against its stock `hf` model, and against sums done by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import unsay
from tests.tiny import CONTROLS
from unsay.errors import EvaluationError

pytest.importorskip("lm_eval")

from unsay.evaluate import lm_eval_command
from unsay.evaluate.lm_eval_command import CommandLM, _with_model, register

CHOICES = """
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
"""
ROLLING = """
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/text.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
WRITING = """
task: own_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n", "app"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match}]
"""
QUESTIONS = (
    {"question": "Tom has 12 apples. How many?", "choices": ["12", "13 apples", "none of them\nare left"], "answer": 0},
    {"question": "Anna reads 15 pages a day ", "choices": ["for 4 days", "never", "60"], "answer": 2},
    {"question": "She reads <|im_end|> pages", "choices": ["a <|BACKTRACK|> b", "x"], "answer": 1},
    {"question": "How", "choices": ["many", "few"], "answer": 0},
)
# No text that repeats itself: of windows that begin alike, lm-eval 0.4.13 scores the wrong positions.
TEXTS = (
    "".join(f"Tom has {n} apples and buys {n * n} more.\n" for n in range(12)),
    "She reads 15 * 4 = 60 pages.",
    "é",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lm-eval leave out its facts about the machine, which take it seconds."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of local tasks; without the question that spells special tokens, which `hf` reads as such."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "choice.jsonl").write_text("".join(json.dumps(QUESTIONS[at]) + "\n" for at in (0, 1, 3)))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, text in {"choice": CHOICES, "text": ROLLING, "writing": WRITING}.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


def run(folder: Path, model: str, names: Sequence[str], arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    register()
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(names),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        bootstrap_iters=2,
        **options,
    )
    return dict(found)


def responses(found: dict[str, Any], task: str) -> list[Any]:
    return [[each[0] for each in line["resps"]] for line in found["samples"][task]]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_without_control_tokens_it_equals_hf(tasks: Path, tiny_models: Callable[..., Path], family: str) -> None:
    """Llama's tokenizer writes a beginning token by itself, Qwen's has none."""
    folder, names = tiny_models(family), ["own_choice", "own_text", "own_writing"]
    theirs = run(tasks, "hf", names, {"pretrained": str(folder), "dtype": "float32", "max_length": 64}, batch_size=2)
    ours = run(tasks, "unsay", names, {"pretrained": str(folder), "max_length": 64}, batch_size=2)
    scored = 0
    for task in ("own_choice", "own_text"):
        for mine, other in zip(responses(ours, task), responses(theirs, task), strict=True):
            for one, two in zip(mine, other, strict=True):
                pair = (one, two) if isinstance(one, tuple) else ((one, True), (two, True))
                assert pair[0][0] == pytest.approx(pair[1][0], abs=1e-4)
                assert pair[0][1] == pair[1][1]
                scored += 1
    assert scored > 15
    assert responses(ours, "own_writing") == responses(theirs, "own_writing")
    assert any(answer for (answer,) in responses(ours, "own_writing"))
    for task in names:
        for name, value in theirs["results"][task].items():
            if isinstance(value, float):
                assert ours["results"][task][name] == pytest.approx(value, rel=1e-4)
    assert ours["config"]["undo"]["mass"] == {}


def test_a_chat_equals_hf(tasks: Path, tiny_models: Callable[..., Path]) -> None:
    folder, names = tiny_models("qwen3"), ["own_choice", "own_writing"]
    options: dict[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True, "num_fewshot": 1}
    options["system_instruction"] = "Count."
    theirs = run(tasks, "hf", names, {"pretrained": str(folder), "dtype": "float32"}, **options)
    ours = run(tasks, "unsay", names, {"pretrained": str(folder)}, **options)
    for mine, other in zip(responses(ours, "own_choice"), responses(theirs, "own_choice"), strict=True):
        for one, two in zip(mine, other, strict=True):
            assert one[0] == pytest.approx(two[0], abs=1e-4)
            assert one[1] == two[1]
    assert responses(ours, "own_writing") == responses(theirs, "own_writing")


def request(*arguments: Any, task: str = "t") -> Any:
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, arguments, 0, metadata=(task, 0, 1))


@pytest.fixture(scope="module")
def undoing(tiny_models: Callable[..., Path]) -> CommandLM:
    return CommandLM(str(tiny_models("qwen3", controls=CONTROLS)), device="cpu", batch_size=3)


def by_hand(model: CommandLM, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool, list[float]]:
    import torch

    controls = sorted(model.opened.table.actions)
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        logits = model.model(input_ids=ids).logits[0, len(context) - 1 : -1].double()
    probabilities = torch.softmax(logits, -1)
    masses = probabilities[:, controls].sum(-1)
    probabilities[:, controls] = 0
    probabilities /= probabilities.sum(-1, keepdim=True)
    target = torch.tensor(continuation)
    logprob = probabilities.gather(1, target[:, None]).log().sum()
    return float(logprob), bool((probabilities.argmax(-1) == target).all()), masses.tolist()


def test_control_tokens_are_masked_out_and_their_mass_is_told(undoing: CommandLM) -> None:
    """Also where text spells one: it is characters there, in the context as in the continuation."""
    pairs = [(each["question"], f" {choice}") for each in QUESTIONS for choice in each["choices"]]  # type: ignore[attr-defined]
    undoing.masses.clear()
    got = undoing.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    assert len(got) == len(pairs) == 10
    masses: list[float] = []
    for (context, continuation), (logprob, greedy) in zip(pairs, got, strict=True):
        before, after = undoing._pair(context, continuation)
        assert not set(undoing.opened.table.actions) & {*before, *after}
        assert undoing.prompter.text_of((*before, *after)) == context + continuation
        expected = by_hand(undoing, before, after)
        assert logprob == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]
        masses += expected[2]
    mass = undoing.get_model_info()["undo"]["mass"]["t"]
    assert mass["positions"] == len(masses)
    assert mass["mean"] == pytest.approx(sum(masses) / len(masses), abs=1e-6)
    assert mass["max"] == pytest.approx(max(masses), abs=1e-6)
    assert mass["max"] > 0.01


def test_greedy_is_judged_after_masking(undoing: CommandLM) -> None:
    """Where a control token is the likeliest of all, the likeliest ordinary one is greedy's."""
    import torch

    from unsay.engine.likelihood import likelihoods

    with torch.no_grad():
        best, second = undoing.model(input_ids=torch.tensor([[70]])).logits[0, -1].argsort(descending=True)[:2].tolist()
    texts = [((70,), (second,)), ((70,), (best,))]
    plain = dict(likelihoods(undoing.model, texts))
    masked = dict(likelihoods(undoing.model, texts[:1], controls=[best]))
    assert [plain[at].is_greedy for at in (0, 1)] == [False, True]
    assert masked[0].is_greedy
    assert masked[0].masses[0] > 1e-3
    assert masked[0].logprob > plain[0].logprob


def test_long_texts_are_read_in_pieces_and_share_their_contexts(undoing: CommandLM) -> None:
    from unsay.engine import likelihood

    ids = (undoing.prompter.encode_plain(TEXTS[0]).ids * 2)[:300]
    texts = [
        (ids[:200], ids[200:260]),
        (ids[:200], ids[200:230]),
        (ids[:3], ids[3:300]),
        (ids[:200], (7,)),
        (ids, (9,)),
    ]
    expected = [by_hand(undoing, *text) for text in texts]
    controls = undoing.opened.table.actions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "CHUNK", 37)
        patch.setattr(likelihood, "ROWS", 16)
        got = dict(likelihood.likelihoods(undoing.model, texts, controls=controls, slots=2))
        reading = likelihood._Reading(undoing.model, texts, sorted(controls), None)
        single = dict(reading.one_by_one())
    for found in (got, single):
        assert [found[at].logprob for at in range(5)] == pytest.approx([each[0] for each in expected], abs=1e-3)
        assert [len(found[at].masses) for at in range(5)] == [60, 30, 297, 1, 1]
        assert found[2].masses == pytest.approx(expected[2][2], abs=1e-5)


def test_answers_are_the_visible_text(undoing: CommandLM) -> None:
    """What was taken back is not there; each request has its own budget; sampled answers repeat with their seed."""
    asked = [
        request(text, {"until": ["\n\n"], "max_gen_toks": most, "do_sample": True, "temperature": 1.3, "top_k": 50})
        for text, most in (("Tom has", 30), ("Anna reads", 50), ("Tom has", 30))
    ]
    first = undoing.generate_until(asked, disable_tqdm=True)
    counted = undoing.get_model_info()["undo"]["answers"]
    assert counted["answers"] == 3
    assert counted["undos"] > 0
    assert counted["sampled"] <= 110
    assert not any(name in answer for name in CONTROLS for answer in first)
    assert first[0] != first[2], "a repeat of one request has a seed of its own"
    assert undoing.generate_until(asked, disable_tqdm=True) == first


def test_wrong_arguments_are_refused(tiny_models: Callable[..., Path], undoing: CommandLM) -> None:
    folder = str(tiny_models("qwen3"))
    with pytest.raises(EvaluationError, match=r"got undo_contxt \(did you mean undo_context\?\)"):
        CommandLM(folder, undo_contxt="keep")
    with pytest.raises(EvaluationError, match="undo_context: expected keep or rewind, got 'hard'"):
        CommandLM(folder, undo_context="hard")
    with pytest.raises(EvaluationError, match="got num_beams=4; this model cannot do that"):
        undoing.generate_until([request("a", {"until": [], "num_beams": 4})], disable_tqdm=True)
    with pytest.raises(EvaluationError, match="max_gen_toks 5000"):
        undoing.generate_until([request("a", {"until": [], "max_gen_toks": 5000})], disable_tqdm=True)
    with pytest.raises(EvaluationError, match="at least one token each"):
        undoing.loglikelihood([request("a", "")], disable_tqdm=True)


def test_our_model_is_taken_where_none_is_named() -> None:
    assert _with_model(["run", "--tasks", "x"]) == ["run", "--model", "unsay", "--tasks", "x"]
    assert _with_model(["--tasks", "x"]) == ["--model", "unsay", "--tasks", "x"]
    for arguments in (["ls", "tasks"], ["run", "--model=hf"], ["run", "--help"], ["run", "-C", "file"], []):
        assert _with_model(arguments) == arguments


@pytest.mark.slow
def test_the_command(tasks: Path, tiny_models: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_models("qwen3", controls=CONTROLS)
    command = [
        *("-m", "unsay", "lm-eval", "run", "--tasks", "own_choice,own_writing", "--include_path", str(tasks)),
        *("--model_args", f"pretrained={folder},undo_context=rewind", "--device", "cpu", "--batch_size", "4"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(unsay.__file__).parents[1])}
    done = subprocess.run([sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "own_choice" in done.stdout
    assert "own_choice: the control tokens, masked out, took" in done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(file.read_text())
    assert found["config"]["model"] == "unsay"
    assert found["config"]["undo"]["decode"]["undo_context"] == "rewind"
    assert found["config"]["undo"]["mass"]["own_choice"]["positions"] > 10
    wrong = subprocess.run(
        [sys.executable, *command[:8], "--model_args", "pretrained=nowhere"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 1
    assert "error: expected a model: a built-in name" in wrong.stderr


def test_registering_twice_changes_nothing() -> None:
    from lm_eval.api.registry import get_model

    register()
    register()
    assert get_model("unsay") is lm_eval_command.CommandLM
    assert get_model("hf").__name__ == "HFLM"
