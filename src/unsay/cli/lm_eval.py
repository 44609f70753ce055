"""`unsay lm-eval`."""

from __future__ import annotations

import subprocess
import sys

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
def command(context: typer.Context) -> None:
    """Run lm-eval's own command line with our engine as the model `unsay`.

    Everything after `lm-eval` goes to it as it stands (`unsay lm-eval run --help` shows its options); where no --model
    is named it is ours. What its --model_args may say is in docs/lm-eval.md.
    """
    from unsay.errors import EvaluationError

    if not context.args:
        print(context.get_help())
        return
    done = subprocess.run([sys.executable, "-m", "unsay.evaluate.lm_eval_command", *context.args])
    if done.returncode < 0:
        raise EvaluationError(
            f"lm-eval was ended by signal {-done.returncode}; with too little memory, lower batch_size"
        )
    raise typer.Exit(done.returncode)
