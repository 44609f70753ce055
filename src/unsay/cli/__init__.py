"""The command `unsay`: one file of this folder per subcommand, found by its name and imported only when it is used.

A command file holds `def command(…)` with Typer annotations, or `app`, a Typer application with subcommands; the first
line of its docstring is its line in `unsay --help`. Files that start with `_` are no commands; a trailing underscore
is dropped and other underscores become dashes (`import_` → import, `lm_eval` → lm-eval).
"""

from __future__ import annotations

import ast
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from unsay import cores
    from unsay.errors import UnsayError
    from unsay.redaction import redact

    if arguments is None:  # a process of its own: a mistake of ours may name what is secret, too
        os.environ.setdefault(*cores.POLITE)
        sys.excepthook = lambda *error: sys.stderr.write(redact("".join(traceback.format_exception(*error))))
    try:
        group().main(args=None if arguments is None else list(arguments), prog_name="unsay")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except UnsayError as error:
        from unsay.report.escape import terminal

        print(f"error: {terminal(redact(str(error)))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def group() -> TyperGroup:
    """Return the whole command line as one object."""
    app = typer.Typer(cls=_Commands, rich_markup_mode=None, no_args_is_help=True, add_completion=False)
    app.callback()(_options)
    made: Any = typer.main.get_command(app)
    assert isinstance(made, TyperGroup)
    return made


def commands() -> dict[str, str]:
    """Return the name of every command and of the file behind it, without importing any."""
    found = (module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if not module.name.startswith("_"))
    return {name.rstrip("_").replace("_", "-"): name for name in found}


def help_line(file: str) -> str:
    """Return a command's first line of help, read from its source."""
    tree = ast.parse((_FOLDER / f"{file}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "command"]
    text = (ast.get_docstring(functions[0]) if functions else None) or ast.get_docstring(tree) or ""
    return text.strip().split("\n")[0]


class _Commands(TyperGroup):
    """A group that imports a command's file only to run it or to show its own help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        file = commands().get(cmd_name)
        if file is None:
            return None
        import importlib

        module = importlib.import_module(f"{__name__}.{file}")
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(rich_markup_mode=None, add_completion=False)
            app.command(cmd_name)(module.command)
        made = typer.main.get_command(app)
        made.name = cmd_name
        return made

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in commands():
            import difflib

            near = difflib.get_close_matches(args[0], commands(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " `unsay --help` lists them."
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line(file)) for name, file in commands().items()])


def _version(value: bool) -> None:
    if value:
        import unsay

        print(f"unsay {unsay.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The lab for language models that can take tokens back.

    `unsay demo` shows the whole loop without any download; `unsay run FILE` carries out the experiments of a file.
    """
