"""What metrics are called on the page and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

STRICT, FLEXIBLE = "exact_match_strict", "exact_match_flexible"
BLEU, ROUGE = "bleu4_lf", "rouge_l_lf"
CORPUS_BLEU = "bleu"

LABELS: Mapping[str, str] = {
    STRICT: "EM (strict)",
    FLEXIBLE: "EM (flex)",
    BLEU: "BLEU-4 (LLaMA-Factory)",
    "rouge_1_lf": "ROUGE-1 (LLaMA-Factory)",
    "rouge_2_lf": "ROUGE-2 (LLaMA-Factory)",
    ROUGE: "ROUGE-L (LLaMA-Factory)",
    CORPUS_BLEU: "BLEU (sacreBLEU)",
    "rouge_l": "ROUGE-L (rouge-score)",
    "sampled_tokens": "Sampled tokens per answer",
    "truncated": "Answers ended by a limit (%)",
    "undo_rate_token": "Undo tokens (% of sampled)",
    "undo_per_answer": "Undos per answer",
    "undo_answers": "Answers with an undo (%)",
    "episodes_per_answer": "Undo episodes per answer",
    "undo_run_length": "Undos per episode",
    "undo_depth": "Tokens left after an episode",
    "undo_first_position": "Position of the first undo",
    "waste": "Tokens spent on what was taken back (%)",
    "underflow_per_answer": "Undos with nothing to take back, per answer",
    "undo_left": "Undo tokens left in answers",
    "reemission": "Undo runs behind which the same is written again (%)",
    "loops": "Answers that go round in circles (%)",
    "step_precision": "Steps taken back that were wrong (%)",
    "step_recall": "Wrong steps that were taken back (%)",
    "step_false_undo": "Right steps that were taken back (%)",
    "step_errors": "Steps written that were wrong (%)",
    "planted_detection": "Planted mistakes noticed (%)",
    "planted_exact": "Planted mistakes taken back exactly (%)",
    "planted_over": "Planted mistakes with too much taken back (%)",
    "planted_under": "Planted mistakes with too little taken back (%)",
    "planted_false_undo": "Clean twins with an undo (%)",
    "undo_chance": "Probability of an undo behind what was given (%)",
}
SHORT: Mapping[str, str] = {BLEU: "BLEU", ROUGE: "ROUGE-L"}
"""What the columns of the results table are called, where that is shorter."""
COLUMNS = (STRICT, FLEXIBLE, BLEU, ROUGE)
"""The metrics of the results table."""
ALWAYS_SHOWN = ("sampled_tokens", "truncated")
"""Measures of the undo family that say something about answers without any undo too."""

NEEDS_A_KIND = ("step_", "planted_", "undo_chance")
"""Beginnings of measures that say something only of answers of a kind: with steps to work out, or a given beginning."""


def label(name: str) -> str:
    return LABELS.get(name, name)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort metrics as the page has them, unknown ones last."""
    known = list(LABELS)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def is_undo_measure(definition: str) -> bool:
    return definition.startswith("unsay undo")
