"""The page of a study, in Markdown: the conclusion first, then every table it follows from.

write_page(studies(entries), Path("STUDY.md"))     # and STUDY.svg beside it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from unsay.errors import StoreError
from unsay.report import matched, numbers, study_figure
from unsay.report.escape import line as one_line
from unsay.report.escape import markdown as esc
from unsay.report.names import label
from unsay.report.results import SAME_TRAINING
from unsay.report.study import BEHIND, DETECTION, Question, Rate, Study
from unsay.report.study_lines import Line
from unsay.store import write

MARKER = "<!-- unsay:study"
_FIRST_LINE = f"{MARKER} schema=1: written by `unsay report --study`; a rewrite replaces all of it -->"
_MARKED = 2_000
"""Characters from the beginning in which the marker of a page or a figure stands."""
_NAMED = 12
"""Experiments left out for one reason that are named one by one."""
_ABOUT_TRACES = (
    "Means over seeds; a ratio without a denominator in some of them says of how many seeds it is. A wrong step is one "
    "with wrong arithmetic: right arithmetic in the wrong place counts as right."
)
_TRACE = ("undo_per_answer", "waste", "reemission", "loops", "step_errors", "step_precision", "step_recall",
          "step_false_undo", "sampled_tokens")  # fmt: skip


def write_page(found: Sequence[Study], file: Path) -> tuple[Path, ...]:
    """Write the page, and beside it a figure for each study that has curves; return the figures.

    Raises StoreError, and writes nothing, where the name does not end in .md or a file there is not of this command.
    """
    if file.suffix != ".md":
        raise StoreError(f"expected a file that ends in .md for the page, got {file}; its figure takes .svg beside it")
    pictures = {}
    for at, one in enumerate(found):
        picture = study_figure.svg([each for each in one.budgets if each.in_figure])
        if picture:
            pictures[at] = file.with_name(f"{file.stem}{'' if at == 0 else f'-{at + 1}'}.svg"), picture
    for place in (file, *(place for place, _ in pictures.values())):
        _refuse_foreign(place)
    for place, picture in pictures.values():
        write.write_text(place, picture)
    figures = [quote(pictures[at][0].name) if at in pictures else None for at in range(len(found))]
    write.write_text(file, markdown(found, figures))
    return tuple(place for place, _ in pictures.values())


def _refuse_foreign(place: Path) -> None:
    try:
        with place.open(encoding="utf-8") as existing:
            begins = existing.read(_MARKED)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {place} ({error}); it was left as it is.") from error
    if begins.strip() and MARKER not in begins and study_figure.MARKER not in begins:
        raise StoreError(
            f"{place} was not written by `unsay report --study`, so it was left as it is. Move it away, or write "
            "elsewhere."
        )


def markdown(found: Sequence[Study], figures: Sequence[str | None] = ()) -> str:
    """Return the page; `figures` says where the picture of each study lies, seen from the page."""
    lines = [_FIRST_LINE, "# Does undo help?", ""]
    many = len(found) > 1
    for at, one in enumerate(found):
        if many:
            lines += [f"## {esc(one.model)} on {esc(one.dataset)}", ""]
        lines += _study(one, figures[at] if at < len(figures) else None, "###" if many else "##")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _study(found: Study, figure: str | None, heading: str) -> list[str]:
    run = found.baseline.side.runs[0]
    n, total = len(run.items), found.baseline.record.items
    experiments = sum(len(arm.side.runs) for arm in found.arms)
    lines = [
        f"{experiments} experiments in {len(found.arms)} arms (seeds of one experiment are one arm) with "
        f"{esc(found.model)} on {n}" + (f" of {total}" if total not in (None, n) else "") + f" questions of "
        f"{esc(found.dataset)}. Right is what {esc(label(found.metric))} says. Plain fine-tuning, the baseline, is "
        f"{esc(found.baseline.name)}.",
        "",
        f"{heading} Conclusion",
        "",
    ]
    for ask, answer in found.conclusion():
        lines.append(f"- **{esc(ask)}** {esc(answer)}")
    lines += ["", *_reading(found)]
    for question in found.questions:
        if question.key == "budget":
            lines += _reaction_table(found, heading)
            lines += _budget_tables(found, question, figure, heading)
        elif question.lines:
            lines += ["", f"{heading} {esc(question.title)}", "", esc(question.compared), ""]
            lines += _test_table(question.lines)
    return lines + _trace_table(found, heading) + _hashes(found, heading)


def _reading(found: Study) -> list[str]:
    """Say what has to be known to read the tables, and what keeps arms from being compared."""
    seeds = " to ".join(map(str, found.seeds))
    lines = [
        f"Trained arms have {seeds} seed{'' if found.seeds == (1,) else 's'} each. A difference is beyond chance, "
        "and in bold, where one as large would be rare if other trainings and other questions had none: *p (Holm)*, "
        f"adjusted for the tests of its own table and column alone, is below {numbers.ALPHA:g}. The 95 % intervals "
        "are those of each line alone, not adjusted. Where none is found, that does not show that there is none: a "
        "true difference of the size given, estimated from the spread seen, could have gone unseen.",
    ]  # fmt: skip
    if any(line.p_these is not None for question in found.questions for line in question.lines):
        lines += [
            "",
            "*These trainings, p (Holm)* asks less: whether the same trained weights differ on other questions, "
            "whatever other trainings would do. How: Fisher's exact randomization test, seeds of a question together.",
        ]  # fmt: skip
    if found.cautions:
        lines += ["", "Beside what an arm is about, these settings differ or are not known:", ""]
        lines += [f"- {esc(text)}" for text in found.cautions]
    if found.left_out:
        reasons: dict[str, list[str]] = {}
        for name, reason in found.left_out:
            reasons.setdefault(reason, []).append(name)
        lines += ["", "Not compared:", ""]
        lines += [f"- {esc(_some(names))}: {esc(reason)}" for reason, names in reasons.items()]
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(heads), "|" + "---|" * len(heads), *map(_row, rows)]


def _test_table(found: Sequence[Line]) -> list[str]:
    with_budget = found[0].budget is not None
    these = any(line.p_these is not None for line in found)
    heads = ["Arm", "Against", *(["Tokens"] if with_budget else []), "n", "Against %", "Arm %", "Difference",
             "95 % interval", "Seed by seed", "Fixed %", "Broken %", "p", "p (Holm)",
             *(["These trainings, p (Holm)"] if these else []), "Could have seen"]  # fmt: skip
    rows = []
    for line in found:
        mark = "**" if line.beyond_chance else ""
        by_seed = ", ".join(f"{each:+.1f}" for each in line.by_seed)
        rows.append(
            [
                esc(line.other), esc(line.baseline), *([str(line.budget)] if with_budget else []), str(line.n),
                f"{line.before:.1f}", f"{line.after:.1f}", f"{mark}{line.diff:+.1f}{mark}",
                numbers.interval(line.low, line.high, digits=1, signed=True), by_seed or numbers.NOTHING,
                f"{line.fixed:.1f}", f"{line.broken:.1f}", numbers.p_value(line.p), numbers.p_value(line.p_holm),
                *([_these(line)] if these else []),
                numbers.NOTHING if line.smallest is None else f"{line.smallest:.1f}",
            ]
        )  # fmt: skip
    return [*_table(heads, rows), "", _about_tests(found)]


def _these(line: Line) -> str:
    if line.p_these_holm is None:
        return numbers.NOTHING
    mark = "**" if line.p_these_holm < numbers.ALPHA else ""
    return f"{mark}{numbers.p_value(line.p_these_holm)}{mark}"


def _about_tests(found: Sequence[Line]) -> str:
    """Say how the tests of a table were made, and what so many seeds allow."""
    from unsay import stats

    alpha = numbers.ALPHA / len(found)
    tests = "; ".join(dict.fromkeys(line.test for line in found))
    count = f"{len(found)} tests, adjusted by Holm: the smallest p has to be below {alpha:.2g}" if len(found) > 1 else (
        f"One test: p has to be below {alpha:.2g}"
    )  # fmt: skip
    said = (
        f"{count}. How: {tests}. Could have seen: the true difference that is found four times in five at that level."
    )
    seeds = [line.seeds[0] for line in found if line.test == SAME_TRAINING]
    if seeds:
        usual = max(sorted(set(seeds)), key=seeds.count)
        times = stats.student_quantile(1 - alpha / 2, usual - 1)
        said += (
            f" {usual} seeds say little of how far trainings differ: where they differ by more than questions explain, "
            f"a difference of the same trainings has to be {times:.1f} standard errors of its seeds."
        )
    return said


def _reaction_table(study: Study, heading: str) -> list[str]:
    if not study.reactions:
        return []
    heads = ["Arm", "Planted", "Bias on undo", "n", "Noticed %", "exactly %", "too much %", "too little %",
             "Clean twin undone %", "AUROC", "Right in the end %", "Twin right %"]  # fmt: skip
    rows = []
    for each in study.reactions:
        area = numbers.shown(each.auroc.value, each.auroc.stderr, digits=3)
        rates = [_rate(each.rates[name]) if name in each.rates else numbers.NOTHING for name in (DETECTION, *BEHIND)]
        rows.append(
            [
                esc(each.name), esc(each.plant), f"{each.bias:g}", str(each.n), *rates, _rate(each.false_undo), area,
                _rate(each.right), _rate(each.twin_right),
            ]
        )  # fmt: skip
    return [
        "",
        f"{heading} Behind a planted mistake",
        "",
        "Noticed: an undo within a few tokens behind the mistake (the metric's definition says how many); too little: "
        "it ends before all of the mistake is gone, or before any of it. Clean twin undone: the same behind the right "
        "line in its place, which is a mistake of the undo. AUROC: how well the probability of an undo tells the two "
        "apart (0.5: not at all). Right in the end: behind the mistake, and behind its twin, where a bias on the undo "
        "is paid for. Behind ± is the standard error, in brackets the 95 % interval, over seeds and questions.",
        "",
        *_table(heads, rows),
    ]


def _rate(rate: Rate) -> str:
    if rate.low is None or rate.high is None:
        return _percent(rate.value)
    return f"{rate.value:.1f} ({rate.low:.1f} to {rate.high:.1f})"


def _budget_tables(found: Study, question: Question, figure: str | None, heading: str) -> list[str]:
    if not found.budgets:
        return []
    budgets = [str(budget) for budget in matched.BUDGETS]
    accuracy, spent = [], []
    for each in found.budgets:
        points = [numbers.shown(point.value, point.stderr, digits=1) for point in each.points]
        points = points or [esc(each.reason or "")] + [numbers.NOTHING] * (len(budgets) - 1)
        accuracy.append([esc(each.name), *points, _percent(each.area), _percent(each.tokens_per_right)])
        if each.points:
            spent.append([esc(each.name), *[f"{point.tokens:.0f}" for point in each.points]])
    lines = [
        "",
        f"{heading} {esc(question.title)}",
        "",
        esc(question.compared),
        "",
        *([] if figure is None else [f"![Accuracy by sampled tokens]({figure})", ""]),
        "Right answers in %, at so many tokens at most:",
        "",
        *_table(["Arm", *budgets, "Mean over log tokens", "Tokens per right answer"], accuracy),
        "",
        "Sampled tokens per question that were really spent. An answer that ended spends no more, and a vote takes no "
        f"more answers than were sampled{_votes(found)}; of one or two answers it is the first that can be read. At "
        "the budgets where less was spent, sides are compared at what they spent, not at the budget.",
        "",
        *_table(["Arm", *budgets], spent),
    ]  # fmt: skip
    if not question.lines:
        return lines
    pairs: dict[tuple[str, str], dict[int, Line]] = {}
    for line in question.lines:
        pairs.setdefault((line.other, line.baseline), {})[line.budget or 0] = line
    rows = [
        [esc(arm), esc(against), *[_difference(cells.get(budget)) for budget in matched.BUDGETS]]
        for (arm, against), cells in pairs.items()
    ]
    return [
        *lines,
        "",
        f"Differences in points, with p (Holm); {numbers.NOTHING}: both sides as at the budget before.",
        "",
        *_table(["Arm", "Against", *budgets], rows),
        "",
        "<details><summary>Every test of it</summary>",
        "",
        *_test_table(question.lines),
        "",
        "</details>",
    ]


def _votes(found: Study) -> str:
    most = sorted({each.most for each in found.budgets if each.most > 1})
    return f" ({', '.join(map(str, most))} per question)" if most else ""


def _difference(line: Line | None) -> str:
    if line is None:
        return numbers.NOTHING
    mark = "**" if line.beyond_chance else ""
    return f"{mark}{line.diff:+.1f}{mark} ({numbers.p_value(line.p_holm)})"


def _trace_table(found: Study, heading: str) -> list[str]:
    rows = []
    for arm in found.arms:
        if not arm.is_plain:
            continue
        cells = []
        for name in _TRACE:
            values = [run.values[name].value for run in arm.side.runs if name in run.values]
            known = [value for value in values if value is not None]
            few = f" ({len(known)} of {len(arm.side.runs)} seeds)" if 0 < len(known) < len(arm.side.runs) else ""
            cells.append(_percent(math.fsum(known) / len(known) if known else None, digits=2) + few)
        rows.append([esc(arm.name), *cells])
    heads = ["Arm", *[esc(label(name)) for name in _TRACE]]
    return ["", f"{heading} What the answers did", "", _ABOUT_TRACES, "", *_table(heads, rows)]


def _hashes(found: Study, heading: str) -> list[str]:
    """Return the lines of `unsay report --hashes`, as they are, so that a rerun can be compared with the page."""
    return [
        "",
        f"{heading} What was produced",
        "",
        "Hashes of the answers (every sampled token and the visible text) and of the trained weights, as `unsay report "
        "--hashes` prints them; `-`: none, or those of the training that the arm shares. A rerun on the same kind of "
        "machine with the same versions has the same ones: in its lab, `unsay report --hashes | grep -vxFf PAGE.md` "
        "prints those that are not on this page, and nothing where all are.",
        "",
        "```text",
        *[one_line(each.text).replace("`", "'") for each in found.hashes],
        "```",
    ]


def _percent(value: float | None, digits: int = 1) -> str:
    return numbers.NOTHING if value is None else f"{value:.{digits}f}"
