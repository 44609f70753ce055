"""The page of a study, in Markdown: the conclusion first, then every table it follows from.

print(markdown(study(entries)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unsay.report import matched, numbers
from unsay.report.escape import markdown as esc
from unsay.report.names import STRICT, label
from unsay.report.study import BEHIND, DETECTION, Arm, Line, Reaction, Study

_TRACE = ("undo_per_answer", "waste", "reemission", "loops", "step_errors", "step_precision", "step_recall",
          "step_false_undo", "sampled_tokens")  # fmt: skip


def markdown(found: Study, figure: str | None = None) -> str:
    """Return the page; `figure` is where the picture of accuracy by sampled tokens lies, seen from the page."""
    lines = ["# Does undo help?", ""]
    record = found.arms[0].record
    n = len(found.arms[0].side.runs[0].items)
    total = record.items
    lines += [
        f"{sum(len(arm.side.runs) for arm in found.arms)} experiments in {len(found.arms)} arms on {n} questions of "
        f"{esc(record.dataset)}" + (f" (of {total})" if total not in (None, n) else "") + f", judged by "
        f"{esc(label(found.metric))}. Written by `unsay report --study` from the stored answers; every sentence of the "
        "conclusion is a test in the tables below it.",
        "",
        "## Conclusion",
        "",
        *[f"- {esc(sentence)}" for sentence in found.conclusion()],
        "",
        "## Accuracy, paired",
        "",
        *_test_table(found.accuracy, "Arm", "Baseline"),
    ]
    if found.counterfactual:
        lines += [
            "",
            "## Undo allowed against undo banned, same weights",
            "",
            "Fixed: wrong with undo banned, right with undo allowed; broken: the other way round; their difference is "
            "what undo itself brings.",
            "",
            *_test_table(found.counterfactual, "Undo allowed", "Undo banned"),
        ]
    if found.recovery:
        lines += [
            "",
            "## Recovery from a planted mistake",
            "",
            "Share of right answers that began with a mistake, undo allowed against banned.",
            "",
            *_test_table(found.recovery, "Undo allowed", "Undo banned"),
        ]
    lines += _reaction_table(found.reactions) + _budget_table(found, figure) + _trace_table(found.arms)
    lines += [
        "",
        "## The answers themselves",
        "",
        "| Arm | Seed | Experiment | Training | Answers |",
        "|---|---|---|---|---|",
    ]
    for arm in found.arms:
        for run in arm.side.runs:
            hashes = [f"`{str(run.record.hashes.get(name, '-'))[:16]}`" for name in ("train", "eval")]
            lines.append(_row([esc(arm.record.config), str(run.record.seed), esc(run.name), *hashes]))
    if found.left_out:
        lines += ["", "Left out:", "", *[f"- {esc(name)}: {esc(reason)}" for name, reason in found.left_out]]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _test_table(found: Sequence[Line], other: str, baseline: str) -> list[str]:
    if not found:
        return ["Nothing to compare."]
    heads = [other, baseline, "n", "Baseline %", "Arm %", "Difference", "95 % interval", "Fixed %", "Broken %",
             "p", "p (Holm)", "Could have seen"]  # fmt: skip
    lines = [_row(heads), "|" + "---|" * len(heads)]
    for line in found:
        mark = "**" if line.beyond_chance else ""
        lines.append(
            _row(
                [
                    esc(line.other), esc(line.baseline), str(line.n), f"{line.before:.1f}", f"{line.after:.1f}",
                    f"{mark}{line.diff:+.1f}{mark}", numbers.interval(line.low, line.high, digits=1, signed=True),
                    f"{line.fixed:.1f}", f"{line.broken:.1f}", numbers.p_value(line.p), numbers.p_value(line.p_holm),
                    numbers.NOTHING if line.smallest is None else f"{line.smallest:.1f}",
                ]
            )
        )  # fmt: skip
    tests = ", ".join(dict.fromkeys(line.test for line in found))
    return [
        *lines,
        "",
        f"Tests: {tests}; bold: beyond chance. Could have seen: the difference found four times in five.",
    ]


def _reaction_table(found: Sequence[Reaction]) -> list[str]:
    if not found:
        return []
    heads = ["Arm", "Planted", "Bias on undo", "n", "Noticed %", "exactly %", "too much %", "too little %",
             "Clean twin undone %", "AUROC", "Right in the end %"]  # fmt: skip
    lines = ["", "## Behind a planted mistake", "", _row(heads), "|" + "---|" * len(heads)]
    for each in found:
        area = each.auroc
        rates = [_percent(each.rates[name]) for name in (DETECTION, *BEHIND)]
        shown = numbers.NOTHING if area is None else numbers.shown(area.value, area.stderr, digits=3)
        lines.append(
            _row(
                [
                    esc(each.name), esc(each.plant), f"{each.bias:g}", str(each.n), *rates,
                    _percent(each.false_undo), shown, _percent(each.rates[STRICT]),
                ]
            )
        )  # fmt: skip
    return lines


def _budget_table(found: Study, figure: str | None) -> list[str]:
    if not found.budgets:
        return []
    heads = ["Arm", *[f"{budget}" for budget in matched.BUDGETS], "Mean over log tokens", "Tokens per right answer"]
    lines = [
        "",
        "## Accuracy at matched sampled tokens",
        "",
        "Per cent right when every question gets at most so many sampled tokens, undone ones and undos included.",
        "",
        *([] if figure is None else [f"![Accuracy by sampled tokens]({figure})", ""]),
        _row(heads),
        "|" + "---|" * len(heads),
    ]
    for each in found.budgets:
        points = [numbers.shown(point.value, point.stderr, digits=1) for point in each.points]
        points = points or [esc(each.reason or "")] + [numbers.NOTHING] * (len(matched.BUDGETS) - 1)
        lines.append(_row([esc(each.name), *points, _percent(each.area), _percent(each.tokens_per_right)]))
    return lines + _vote_table(found)


def _vote_table(found: Study) -> list[str]:
    if not found.at_budget:
        return []
    heads = ["Arm", "Vote", *[f"{budget}" for budget, _ in found.at_budget]]
    lines = [
        "",
        "Difference to the vote in points, with p adjusted by Holm within each budget; bold: beyond chance.",
        "",
        _row(heads),
        "|" + "---|" * len(heads),
    ]
    rows: dict[tuple[str, str], dict[int, Line]] = {}
    for budget, tests in found.at_budget:
        for line in tests:
            rows.setdefault((line.other, line.baseline), {})[budget] = line
    for (arm, vote), cells in rows.items():
        shown = [_difference(cells.get(budget)) for budget, _ in found.at_budget]
        lines.append(_row([esc(arm), esc(vote), *shown]))
    return lines


def _difference(line: Line | None) -> str:
    if line is None:
        return numbers.NOTHING
    mark = "**" if line.beyond_chance else ""
    return f"{mark}{line.diff:+.1f}{mark} ({numbers.p_value(line.p_holm)})"


def _trace_table(arms: Sequence[Arm]) -> list[str]:
    plain = [arm for arm in arms if arm.plant is None and not arm.is_sampled]
    heads = ["Arm", *[esc(label(name)) for name in _TRACE]]
    lines = ["", "## What the answers did", "", _row(heads), "|" + "---|" * len(heads)]
    for arm in plain:
        cells = []
        for name in _TRACE:
            values = [run.values[name].value for run in arm.side.runs if name in run.values]
            known = [value for value in values if value is not None]
            cells.append(_percent(math.fsum(known) / len(known) if known else None))
        lines.append(_row([esc(arm.name), *cells]))
    return lines


def _percent(value: float | None) -> str:
    return numbers.NOTHING if value is None else f"{value:.1f}"
