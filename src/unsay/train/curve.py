"""The loss curve of a training as a picture, once for a page and once for a paper.

draw(history, folder)      # training_loss.png and training_loss.svg
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unsay.store import write

PNG = "training_loss.png"
SVG = "training_loss.svg"


def draw(history: Sequence[Mapping[str, Any]], folder: Path) -> bool:
    """Draw the losses that were logged; say whether it could, which takes matplotlib and a logged loss.

    The same history gives the same files.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    curves = {
        name: [(entry["step"], entry[key]) for entry in history if key in entry]
        for name, key in (("training", "loss"), ("held out", "eval_loss"))
    }
    if not curves["training"]:
        return False
    with rc_context({"svg.hashsalt": "unsay", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, points in curves.items():
            if points:
                steps, losses = zip(*points, strict=True)
                axes.plot(steps, losses, label=name, linewidth=1.2, marker="o" if len(points) < 40 else None, ms=2.5)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss per supervised token")
        axes.spines[["top", "right"]].set_visible(False)
        if curves["held out"]:
            axes.legend(frameon=False)
        with write.filling(folder) as beside:
            figure.savefig(beside / PNG, dpi=160, metadata={"Software": None})
            figure.savefig(beside / SVG, metadata={"Date": None})
    return True
