"""Decode with undo: token ids in, token ids out.

Knows nothing about datasets, metrics, files or tokenizers; the one piece of text it needs (for stop strings and the
visible answer) comes from a function its caller hands in.

    for finished in generate(model, requests, options): ...
"""

from unsay.engine.engine import Engine, generate
from unsay.engine.options import Event, Observer, Options
from unsay.engine.sequence import Finished, Request

__all__ = ["Engine", "Event", "Finished", "Observer", "Options", "Request", "generate"]
