"""The first prompt of an experiment, as text and as ids, and what the counts say about all of them.

first = first_prompt(entry.folder, entry.record)
first.text, first.ids        # ids are None where only the text is known
"""

from __future__ import annotations

from dataclasses import dataclass

from unsay.prompt_checks import PromptReport
from unsay.records import ExperimentRecord, Prompt
from unsay.store import layout, read
from unsay.store.read import Entry

IDS_SHOWN = 40
TEXT_SHOWN = 3000
"""Characters of a prompt that are shown: a prompt says most at its beginning and its end."""


@dataclass(frozen=True)
class FirstPrompt:
    """`ids` are what the model read; None: the files do not say. `cut` counts tokens dropped before them."""

    text: str
    ids: tuple[int, ...] | None = None
    cut: int = 0

    @property
    def size(self) -> str:
        ids = "ids unknown" if self.ids is None else f"{len(self.ids)} ids"
        return f"{len(self.text)} characters, {ids}" + (f", {self.cut} cut" if self.cut else "")

    def shown_text(self) -> str:
        """Return the text, its middle left out where it is long."""
        if len(self.text) <= TEXT_SHOWN:
            return self.text
        half = TEXT_SHOWN // 2
        return f"{self.text[:half]}\n[… {len(self.text) - 2 * half} characters …]\n{self.text[-half:]}"

    def shown_ids(self) -> str:
        """Return the ids, the first ones where they are many."""
        if self.ids is None:
            return "unknown"
        more = len(self.ids) - IDS_SHOWN
        return " ".join(map(str, self.ids[:IDS_SHOWN])) + (f" … and {more} more" if more > 0 else "")


def first_prompt(entry: Entry) -> FirstPrompt | None:
    """Return the prompt of the first item; of an import, and of a record alone, only its text is known."""
    found = _recorded(entry)
    if found is not None and isinstance(found.text, str):
        return FirstPrompt(found.text, found.ids, found.cut)
    text = entry.record.facts.get("prompt_0") if entry.record else None
    return FirstPrompt(text) if isinstance(text, str) and text else None


def counts(record: ExperimentRecord) -> list[str]:
    """Return what is wrong with the prompts, counted; nothing where nobody counted."""
    report = PromptReport.from_json(record.facts.get("prompts"))
    return [] if report is None else report.described()


def _recorded(entry: Entry) -> Prompt | None:
    if not (entry.folder / layout.PROMPTS).exists():
        return None
    try:
        return next(read.prompts(entry.folder), None)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # what it says there can still be looked at; a page must not fail for it
