"""The first prompt of an experiment and the counts about all of them, on the page and wherever else they are shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.unit.lab import ARMS, make
from unsay.prompt_checks import PromptFacts, check
from unsay.records import Key, Prompt
from unsay.report import prompt
from unsay.report.markdown import END_KEEP, KEEP, write_page
from unsay.store import layout, read, write
from unsay.store.read import Entry

HOSTILE = (
    "</pre></details><script>alert(1)</script>\n\n# heading\n### EXP-001: other\n"
    f"{KEEP}\nmine\n{END_KEEP}\n| a | b |\n\x1b[31mred \u202etxet &amp; [x](javascript:alert(1)) `code`"
)


def lab_with(output_dir: Path, *, facts: dict[str, Any], prompts: list[dict[str, Any]] | None = None) -> Entry:
    """Make one finished experiment with these facts; without `prompts` it has no file of them, as an import."""
    folder = make(output_dir, ARMS[0])
    found = read.record(folder)
    assert found is not None
    write.write_json(folder / layout.EXPERIMENT, replace(found, facts=found.facts | facts).to_json())
    (folder / layout.PROMPTS).unlink()
    if prompts is not None:
        write.write_bytes(folder / layout.PROMPTS, b"".join(map(write.seal, prompts)))
    return read.pick(read.find(output_dir), "EXP-001")


def line(text: str, ids: tuple[int, ...], cut: int = 0) -> dict[str, Any]:
    return Prompt(Key("t", 0), text, ids, ("x",) * len(ids), "h", cut).to_json()


def test_text_and_ids_come_from_the_file_of_prompts(tmp_path: Path) -> None:
    entry = lab_with(tmp_path, facts={"prompt_0": "recorded"}, prompts=[line("asked", (5, 6), 3), line("other", (7,))])
    assert prompt.first_prompt(entry) == prompt.FirstPrompt("asked", (5, 6), 3)


@pytest.mark.parametrize("prompts", [None, [], [{"key": 1}], [line("x", (1,)) | {"text": 3}]])
def test_without_such_a_file_only_the_text_is_known(tmp_path: Path, prompts: list[dict[str, Any]] | None) -> None:
    entry = lab_with(tmp_path, facts={"prompt_0": "recorded"}, prompts=prompts)
    found = prompt.first_prompt(entry)
    assert found == prompt.FirstPrompt("recorded")
    assert (found.size, found.shown_ids()) == ("8 characters, ids unknown", "unknown")


@pytest.mark.parametrize("facts", [{}, {"prompt_0": ""}, {"prompt_0": ["a"]}])
def test_nothing_is_known_of_some(tmp_path: Path, facts: dict[str, Any]) -> None:
    assert prompt.first_prompt(lab_with(tmp_path, facts=facts)) is None


def test_long_prompts_show_both_ends_and_how_much_is_left_out() -> None:
    found = prompt.FirstPrompt("a" * 2000 + "b" * 2000, tuple(range(100)))
    assert found.shown_text() == "a" * 1500 + "\n[… 1000 characters …]\n" + "b" * 1500
    assert found.shown_ids() == " ".join(map(str, range(40))) + " … and 60 more"


def test_the_page_has_the_counts_and_the_prompt(tmp_path: Path) -> None:
    report = check([PromptFacts("A question?", "A question?", (3,), 1, "length", 0), PromptFacts(finish_reason="eos")])
    lab_with(tmp_path / "outputs", facts={"prompts": report.to_json()}, prompts=[line("A\n\nquestion?", (3, 4))])
    page = write_page(tmp_path / "outputs").read_text(encoding="utf-8")
    assert "- **Prompts**: 1 of 2 answers cut; 0 of 1 prompts cut (unknown for 1)" in page
    assert "<summary>Prompt 0: 12 characters, 2 ids</summary>\n\n<pre>A\n\nquestion?</pre>\n\nIds: 3 4\n" in page


def test_an_experiment_without_counts_has_no_line_for_them(tmp_path: Path) -> None:
    lab_with(tmp_path / "outputs", facts={"prompts": "<b>"})
    assert "**Prompts**" not in write_page(tmp_path / "outputs").read_text(encoding="utf-8")


@pytest.mark.parametrize("known", [True, False], ids=["prompts.jsonl", "facts"])
def test_a_hostile_prompt_stays_text(tmp_path: Path, known: bool) -> None:
    lab = tmp_path / "outputs"
    hostile = line(HOSTILE, (1,)) | {"ids": [1, "<img src=x>"], "cut": "<script>"}
    lab_with(lab, facts={"prompt_0": HOSTILE}, prompts=[hostile] if known else None)
    page = write_page(lab)
    text = page.read_text(encoding="utf-8")
    assert text.count("</pre>") == text.count("</details>") == 1
    assert not re.search("<(script|img)|[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert text.count(KEEP) == 1
    headings = [token for token in MarkdownIt().parse(text) if token.type == "heading_open"]
    assert len(headings) == len([one for one in text.split("\n") if one.startswith("#")])
    # what is kept below the experiment stays there, whatever its prompt says
    title = next(one for one in text.split("\n") if one.startswith("### EXP-001"))
    page.write_text(text.replace("</details>", f"</details>\n\n{KEEP}\nnote\n{END_KEEP}"), encoding="utf-8")
    again = write_page(lab).read_text(encoding="utf-8")
    assert f"{KEEP}\nnote\n{END_KEEP}" in again.split(title)[1].split("\n## ")[0]


def test_damaged_counts_are_shown_as_unknown(tmp_path: Path) -> None:
    found = {"n": 2, "answers_cut": {"count": "<b>", "of": 2}, "own_shots": {"count": 1, "of": 2, "reason": "<i>|"}}
    lab_with(tmp_path / "outputs", facts={"prompts": json.loads(json.dumps(found))})
    page = write_page(tmp_path / "outputs").read_text(encoding="utf-8")
    assert "answers cut unknown (not recorded)" in page
    assert r"1 of 2 among own shots (&lt;i&gt;\|)" in page
