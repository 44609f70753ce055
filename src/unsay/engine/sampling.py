"""Logits to token: greedy, or temperature / top-k / top-p with one generator per sequence.

The filters are transformers' own. Knows nothing about sequences beyond the ids that are banned for each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from unsay.engine.options import Options
from unsay.engine.sequence import Choice, WritingSequence
from unsay.errors import EvaluationError
from unsay.settings import Decode


def filters(decode: Decode) -> LogitsProcessorList:
    """Return transformers' logits filters for the settings, in the order its own `generate` applies them."""
    chain = LogitsProcessorList()
    if decode.do_sample:
        if decode.temperature != 1.0:
            chain.append(TemperatureLogitsWarper(decode.temperature))
        if decode.top_k > 0:
            chain.append(TopKLogitsWarper(decode.top_k))
        if decode.top_p < 1.0:
            chain.append(TopPLogitsWarper(decode.top_p))
    return chain


@dataclass
class Sampler:
    """Chooses the next token of sequences."""

    options: Options

    def __post_init__(self) -> None:
        self.decode = self.options.decode
        self.controls = sorted(self.options.table.actions)
        self.chain = filters(self.decode)

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor, sequences: Sequence[WritingSequence | None]) -> list[Choice | None]:
        """Choose one token per row of `logits`, (rows, vocabulary) in any float type.

        A row that has nothing left to choose but control tokens gives None, as does a row without a sequence. Raises
        EvaluationError for logits that are not numbers.
        """
        logits = logits.float()
        total = torch.logsumexp(logits, dim=-1)
        allowed = self._allowed(logits, sequences)
        if self.decode.do_sample:
            tokens, sampled = self._draw(allowed, sequences)
        else:
            tokens, sampled = allowed.argmax(dim=-1), None
        for row, sequence in enumerate(sequences):
            if sequence is not None and sequence.given is not None:
                tokens[row] = sequence.given
                if sampled is not None:
                    sampled[row] = 0.0  # it was sure to come
        at = tokens[:, None]
        columns = [tokens.float(), logits.gather(1, at)[:, 0] - total, allowed.gather(1, at)[:, 0], total]
        columns.append(self._undo(logits, total, sequences))
        if sampled is not None:
            columns.append(sampled)
        rows = torch.stack(columns).tolist()  # one transfer from the device
        return [
            None if sequence is None else self._choice([column[row] for column in rows], allowed[row], sequence)
            for row, sequence in enumerate(sequences)
        ]

    def _choice(self, found: list[float], allowed: torch.Tensor, sequence: WritingSequence) -> Choice | None:
        token, logprob, logit, total, undo, *sampled = found
        if not math.isfinite(total):
            raise EvaluationError(
                "the model's logits are not numbers (NaN or infinite). Expected finite logits; check the weights, "
                "or run with --dtype float32."
            )
        if logit == -math.inf or not self._emits(allowed, sequence):
            return None
        watched = bool(sequence.request.given and self.controls)
        return Choice(int(token), logprob, sampled[0] if sampled else None, undo if watched else None)

    def _undo(
        self, logits: torch.Tensor, total: torch.Tensor, sequences: Sequence[WritingSequence | None]
    ) -> torch.Tensor:
        """Return each row's log-probability of any control token; zeros where no sequence is watched for that."""
        if not self.controls or not any(each is not None and each.request.given for each in sequences):
            return torch.zeros_like(total)
        return torch.logsumexp(logits[:, self.controls], dim=-1) - total

    def _allowed(self, logits: torch.Tensor, sequences: Sequence[WritingSequence | None]) -> torch.Tensor:
        """Return the logits with the bias on control tokens and without what is banned."""
        rows: list[int] = []
        ids: list[int] = []
        for row, sequence in enumerate(sequences):
            banned = sequence.banned() if sequence is not None else ()
            rows += [row] * len(banned)
            ids += banned
        biased = bool(self.decode.undo_bias and self.controls)
        if not ids and not biased:
            return logits
        allowed = logits.clone()
        if biased:
            allowed[:, self.controls] += self.decode.undo_bias
        if ids:
            allowed[torch.tensor(rows, device=logits.device), torch.tensor(ids, device=logits.device)] = float("-inf")
        return allowed

    def _emits(self, allowed: torch.Tensor, sequence: WritingSequence) -> bool:
        """Say whether anything but a control token is left to choose."""
        if len(sequence.banned()) + len(self.controls) < allowed.shape[-1]:
            return True
        left = torch.isfinite(allowed)
        left[self.controls] = False
        return bool(left.any())

    def _draw(
        self, allowed: torch.Tensor, sequences: Sequence[WritingSequence | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a token per row, each with a generator of its own; return tokens and the sampler's log-probabilities."""
        probabilities = torch.softmax(self.chain(None, allowed), dim=-1).nan_to_num(0.0).cpu()
        probabilities[probabilities.sum(dim=-1) == 0, 0] = 1.0  # nothing left: such a row becomes None
        tokens = torch.stack(
            [
                torch.multinomial(row, 1, generator=_generator(sequence))[0]
                for row, sequence in zip(probabilities, sequences, strict=True)
            ]
        )
        drawn = probabilities.gather(1, tokens[:, None])[:, 0].log()
        return tokens.to(allowed.device), drawn.to(allowed.device)


def _generator(sequence: WritingSequence | None) -> torch.Generator:
    """Return the generator of one answer's next token: a function of its seed and of where it is."""
    generator = torch.Generator()
    if sequence is not None:
        digest = hashlib.sha256(sequence.draw.encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator
