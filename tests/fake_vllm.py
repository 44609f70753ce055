"""What stands in for a Python with vLLM: it takes vLLM's arguments and serves the model with tests/openai_server.py.

    make_python(folder)          # an executable to name in an experiment file

How it behaves is said by a file `fake.json` beside it: `fails` (ends at once with these words), `hangs` (never
answers), `stubborn` (ignores being asked to end), `light` (serves no model, only /health). It writes its process id,
that of a process it started, its arguments and what it found in its environment into `started.json`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODULE = "vllm.entrypoints.openai.api_server"
SEEN = ("VLLM_API_KEY", "VLLM_HOST_IP", "UNSAY_SERVER_KEY", "PYTHONPATH")


def make_python(folder: Path, **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(how))
    python = folder / "python"
    # Asked whether it finds vLLM (`-c`), it says yes.
    python.write_text(
        f"""#!/bin/sh
[ "$1" = -c ] && exit 0
exec {shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__)))} {shlex.quote(str(folder))} "$@"
"""
    )
    python.chmod(0o755)
    return python


def started(folder: Path) -> dict[str, Any]:
    """Return what the stand-in wrote down when it was started."""
    value: dict[str, Any] = json.loads((folder / "started.json").read_text())
    return value


def main() -> None:
    folder, module = Path(sys.argv[1]), sys.argv[2:4]
    assert module == ["-m", MODULE], module
    args = sys.argv[4:]
    how = json.loads((folder / "fake.json").read_text())
    if how.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    facts = {"pid": os.getpid(), "child": child.pid, "args": args, "environment": {k: os.environ.get(k) for k in SEEN}}
    (folder / "started.tmp").write_text(json.dumps(facts))
    (folder / "started.tmp").rename(folder / "started.json")
    if how.get("fails"):
        child.kill()
        sys.exit(how["fails"])
    if how.get("hangs"):
        print("loading", flush=True)
        time.sleep(600)
    sys.path.insert(0, str(ROOT))
    from tests import openai_server

    server = openai_server.Server(
        None if how.get("light") else _model(_option(args, "--model"), _option(args, "--dtype")),
        name=_option(args, "--served-model-name"),
        key=os.environ["VLLM_API_KEY"],
    )
    address = (_option(args, "--host"), int(_option(args, "--port")))
    ThreadingHTTPServer(address, openai_server.handler(server)).serve_forever()


def _option(args: list[str], name: str) -> str:
    return args[args.index(name) + 1]


def _model(path: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


if __name__ == "__main__":
    main()
