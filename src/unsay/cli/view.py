"""`unsay view`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unsay.cli import _lab


def command(
    output_dir: Annotated[Path, typer.Argument(metavar="[OUTPUT_DIR]", help="The lab folder.")] = _lab.DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen at: one of this machine only.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen at; without it 8765, or a free one where that is taken."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one JSON document.")] = False,
) -> None:
    """Look at a lab in a browser: experiments, samples, traces, comparisons. Ends with Ctrl-C; changes nothing."""
    from unsay.web import guard

    if not guard.is_loopback(host):
        raise typer.BadParameter(
            f"expected an address of this machine only (127.0.0.1, ::1, localhost), got {host!r}: whoever reaches the "
            "page reads every answer and setting. From elsewhere, forward the port: ssh -L 8765:127.0.0.1:8765 MACHINE",
            param_hint="--host",
        )
    lab = _lab.existing(output_dir)
    from unsay.web import server

    bound = server.listen(host, port)
    address = f"http://{guard.in_address(host)}:{bound.getsockname()[1]}/"
    if as_json:
        _lab.print_json({"schema": 1, "address": address, "output_dir": str(lab)})
    else:
        print(f"{address}  (Ctrl-C ends it)")
    sys.stdout.flush()
    if not no_browser:
        import webbrowser

        webbrowser.open(address)
    try:
        server.serve(lab, bound, host)
    except KeyboardInterrupt:
        return  # how it is meant to end
