"""Real files of other people: every one gives what is known of it, and what cannot be known is said."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from unsay import cli
from unsay.records import MetricValue
from unsay.store import read
from unsay.store.read import Entry

SYSTEMS = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
TEXTS = ("bleu", "bleu4_lf", "rouge_1_lf", "rouge_2_lf", "rouge_l_lf", "rouge_l")


class Lab:
    """A lab into which the acceptance files were imported once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = read.find(folder)

    def of(self, part: str, **wanted: str) -> list[Entry]:
        """The experiments of which an original lies below a folder of this name, narrowed by members of the record."""
        return [
            entry
            for entry in self.entries
            if entry.record is not None
            and entry.record.imported is not None
            and any(f"/{part}/" in each["path"] for each in entry.record.imported["files"])
            and all(getattr(entry.record, name) == value for name, value in wanted.items())
        ]

    def one(self, part: str, **wanted: str) -> Entry:
        (entry,) = self.of(part, **wanted)
        return entry


def values(entry: Entry) -> dict[str, MetricValue]:
    return read.metrics(entry.folder)


def warned(entry: Entry, text: str) -> bool:
    assert entry.record is not None
    return any(text in warning for warning in entry.record.warnings)


def facts(entry: Entry) -> dict[str, Any]:
    assert entry.record is not None
    return entry.record.facts


@pytest.fixture(scope="module")
def acceptance(data_folder: Path) -> Path:
    folder = data_folder / "acceptance"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture(scope="module")
def imported(acceptance: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, str]:
    """Import everything at once, as a newcomer does; the originals must not change."""
    place = tmp_path_factory.mktemp("acceptance")
    before = fingerprints(acceptance)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["import", str(acceptance), "--marker", "A:"]) == 1  # two files are refused
    assert fingerprints(acceptance) == before
    return Lab(place / "outputs"), err.getvalue()


def fingerprints(folder: Path) -> dict[str, str]:
    found = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert len(found) > 40
    return found


def test_every_file_is_used_or_refused(imported: tuple[Lab, str], acceptance: Path) -> None:
    lab, err = imported
    used = {each["path"] for entry in lab.entries if entry.record and entry.record.imported
            for each in entry.record.imported["files"]}  # fmt: skip
    rest = {str(p.relative_to(acceptance)) for p in acceptance.rglob("*") if p.is_file() and str(p) not in used}
    assert rest == {
        "llamafactory/refuse-other-keys/generated_predictions.jsonl",
        "llamafactory/refuse-other-keys/adapter_config.json",
        "llamafactory/refuse-no-label/generated_predictions.jsonl",
    }
    assert "expected texts under the keys 'predict' and 'label', got the keys id, description, reference_code" in err
    assert "got the keys prompt, response, original_prompt, index" in err
    assert all(entry.problem is None for entry in lab.entries)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_four_released_systems(imported: tuple[Lab, str], system: str) -> None:
    entry = imported[0].one("gsm8k-model-solutions", model=system)
    found = values(entry)
    for name in ("exact_match_strict", "exact_match_flexible", "is_correct"):
        assert found[name].n == 1319
        assert found[name].value == pytest.approx(100 * SYSTEMS[system] / 1319, abs=1e-9)
    lines = list(read.scores(entry.folder))
    assert [line.item for line in lines] == [str(at) for at in range(1319)]
    assert all(line.scores["exact_match_strict"] == line.scores["is_correct"] for line in lines)
    assert all(found[name].value is not None and found[name].stderr for name in TEXTS)
    assert facts(entry)["prompts"]["duplicated"]["count"] == 0


@pytest.mark.parametrize("folder", ["truncated-gsm8k-chat", "truncated-gsm8k-strict-only"])
def test_truncated_gsm8k_keeps_what_was_published_and_says_so(imported: tuple[Lab, str], folder: str) -> None:
    entries = imported[0].of(folder)
    published = {"gemma3:12b-u1": (75.0, 78.0, 100), "gemma3:12b-it-q4_K_M": (77.0, 81.0, 100),
                 "tinyllama": (0.0, 0.0, 1319)}  # fmt: skip
    assert entries
    for entry in entries:
        assert entry.record is not None
        strict, flexible, n = published[entry.record.model]
        found = values(entry)
        assert (found["exact_match_strict"].value, found["exact_match_flexible"].value) == (strict, flexible)
        assert found["exact_match_strict"].n == n
        assert "cannot be checked" in str(found["exact_match_strict"].reason)
        assert warned(entry, f"3 of {n} samples are here")
        assert all(found[name].value is None and found[name].reason == f"3 of {n} answers are here" for name in TEXTS)
        assert len(list(read.scores(entry.folder))) == 3
        if n == 100:
            assert (entry.limit, entry.record.items) == (100, 1319)
            assert warned(entry, "empty chat template, but the prompts are chats")
            assert facts(entry)["prompt_0"].startswith("user: Question: A ship left a port")


def test_groups_and_their_tasks(imported: tuple[Lab, str]) -> None:
    entries = imported[0].of("truncated-mmlu-groups")
    assert len(entries) == 2 * 15
    groups = [entry for entry in entries if entry.record and entry.record.dataset == "mmlu_pro_plus"]
    shown = sorted(values(entry)["exact_match,custom-extract"].value or 0 for entry in groups)
    assert shown == [pytest.approx(36.57142857142857), pytest.approx(37.642857142857145)]
    assert {values(entry)["exact_match,custom-extract"].n for entry in groups} == {1400}
    (chemistry,) = [e for e in entries if e.record and e.record.dataset == "mmlu_pro_plus_chemistry"
                    and values(e)["exact_match,custom-extract"].value == pytest.approx(13.0)]  # fmt: skip
    assert warned(chemistry, "3 of 100 samples are here")
    assert values(chemistry)["exact_match_strict"].reason == "the task does not define it"


def test_two_tasks_and_samples_of_one(imported: tuple[Lab, str]) -> None:
    perturbed = imported[0].one("truncated-math-two-tasks", dataset="math_perturbed_full")
    rephrased = imported[0].one("truncated-math-two-tasks", dataset="math_rephrased_full")
    assert values(rephrased)["exact_match,none"].value == pytest.approx(0.04)
    assert values(rephrased)["exact_match,none"].stderr == pytest.approx(0.02828144211304471)
    assert values(perturbed)["exact_match,none"].value == 0
    assert warned(perturbed, "10 of 5000 samples are here")
    assert warned(rephrased, "samples missing")


@pytest.mark.parametrize(("folder", "exact", "verified"), [("math500-nt64", 1.4, 3.2), ("math500-nt512", 3.2, 5.0)])
def test_complete_runs_are_recomputed(imported: tuple[Lab, str], folder: str, exact: float, verified: float) -> None:
    entry = imported[0].one(folder)
    found = values(entry)
    assert found["exact_match,none"].value == pytest.approx(exact)
    assert found["math_verify,none"].value == pytest.approx(verified)
    assert found["math_verify,none"].n == 500
    assert found["math_verify,none"].reason is None
    assert facts(entry)["verified"] == ["exact_match,none", "math_verify,none"]
    assert facts(entry)["samples_matched"] == "by hash"
    assert found["exact_match_strict"].value is None
    assert all(found[name].value is None and "final answers alone" in str(found[name].reason) for name in TEXTS)


@pytest.mark.parametrize(
    ("folder", "strict"), [("gsm8k-nt64-results-only", 0.02426), ("gsm8k-nt256-results-only", 0.05610)]
)
def test_results_without_samples(imported: tuple[Lab, str], folder: str, strict: float) -> None:
    entry = imported[0].one(folder)
    found = values(entry)["exact_match_strict"]
    assert found.value == pytest.approx(100 * strict, abs=0.001)
    assert found.n == 1319
    assert found.low is not None
    assert found.low < found.value < (found.high or 0)
    assert warned(entry, "samples missing")
    assert entry.record is not None
    assert entry.record.model == "Llama-3.2-1B"
    assert entry.record.config == "fewshot_5"
    assert entry.record.spec["settings"]["decode"]["max_new_tokens"] in (64, 256)


def test_undo_that_was_lost(imported: tuple[Lab, str]) -> None:
    entry = imported[0].one("backtrack-gsm8k")
    assert warned(entry, "undo tokens lost")
    found = values(entry)
    assert found["accuracy"].value == pytest.approx(100 * 348 / 1319)
    assert found["truncated"].value == pytest.approx(100 * 29 / 1319)
    assert found["bleu4_lf"].value is None
    assert found["exact_match_strict"].value is None
    assert facts(entry)["prompts"]["answers_cut"] == {"count": 29, "of": 1319}


def test_7600_predictions_in_all_digits(imported: tuple[Lab, str]) -> None:
    entry = imported[0].one("agnews-llama3.1-8b-sft")
    found = values(entry)
    assert {name: found[name].value for name in ("bleu4_lf", "rouge_1_lf", "rouge_2_lf", "rouge_l_lf")} == {
        "bleu4_lf": 95.83096180263159, "rouge_1_lf": 96.67653468421054,
        "rouge_2_lf": 95.4342105263158, "rouge_l_lf": 96.67653468421054,
    }  # fmt: skip
    assert facts(entry)["verified"] == ["bleu4_lf", "rouge_1_lf", "rouge_2_lf", "rouge_l_lf"]
    assert found["exact_match_strict"].value is None
    assert "--marker" in str(found["exact_match_strict"].reason)
    assert warned(entry, "sampled decoding (LLaMA-Factory's default)")
    assert entry.record is not None
    assert (entry.record.dataset, entry.record.method, entry.record.config) == ("ag_news_test", "unknown", "predict")


def test_published_scores_without_predictions(imported: tuple[Lab, str]) -> None:
    entry = imported[0].one("results-only")
    found = values(entry)["bleu4_lf"]
    assert (found.value, found.n, found.stderr) == (94.57329696261684, 428, None)
    assert warned(entry, "disagree")
    assert warned(entry, "samples missing")


@pytest.mark.parametrize(
    ("folder", "steps", "total", "status"),
    [
        ("translator-train-logs", 8660, 8660, "completed"),
        ("medical-train-logs", 6750, 6750, "completed"),
        ("dpo-cold-start-logs", 14, 14, "completed"),
        ("aborted-train-log", 202, 5100, "failed"),
    ],
)
def test_trainings(imported: tuple[Lab, str], folder: str, steps: int, total: int, status: str) -> None:
    entry = imported[0].one(folder)
    assert entry.record is not None
    assert (facts(entry)["steps"], facts(entry)["total_steps"], entry.record.status) == (steps, total, status)
    if folder == "dpo-cold-start-logs":
        assert entry.record.method == "dpo"
        assert values(entry)["eval_rewards/accuracies"].value == pytest.approx(53.846, abs=0.001)
    else:
        assert warned(entry, "a training only")
        assert not values(entry)
    if status == "failed":
        assert "step 202 of 5,100" in str(entry.record.attempts[-1].error)
    if folder == "translator-train-logs":
        assert facts(entry)["peak_learning_rate"] == pytest.approx(4.999993e-05, rel=0.01)
        assert entry.record.model == "Mistral-7B-Instruct-v0.2"
    if folder == "medical-train-logs":
        assert facts(entry)["eval_loss"] == pytest.approx(1.5777634382247925, abs=1e-4)
        assert entry.record.dataset == "medical_llm"


def test_importing_again_adds_nothing(
    imported: tuple[Lab, str], acceptance: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, _ = imported
    before = {str(path): path.read_bytes() for path in lab.folder.rglob("*.json*")}
    code = cli.main(["import", str(acceptance), "--marker", "A:", "-o", str(lab.folder), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert {each["did"] for each in document["experiments"]} == {"unchanged"}
    assert len(document["experiments"]) == len(lab.entries) == 50
    assert {str(path): path.read_bytes() for path in lab.folder.rglob("*.json*")} == before


def test_the_page_links_the_originals(imported: tuple[Lab, str]) -> None:
    page = (imported[0].folder.parent / "EXPERIMENTS.md").read_text()
    assert "agnews-llama3.1-8b-sft/generated_predictions.jsonl" in page
    assert "undo tokens lost" in page
    assert page.count("\n### EXP-") == 50


def test_the_released_systems_compare_as_published(
    acceptance: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = acceptance / "gsm8k-model-solutions" / "example_model_solutions.jsonl"
    assert cli.main(["import", str(file), "--marker", "A:"]) == 0
    capsys.readouterr()
    ids = {entry.record.model: entry.record.id for entry in read.find(tmp_path / "outputs") if entry.record}
    assert cli.main(["compare", ids["175b_finetuning"], ids["6b_verification"]]) == 0
    out = capsys.readouterr().out
    for text in ("+4.32", "± 1.44", "209", "152", "0.00315"):
        assert text in out
