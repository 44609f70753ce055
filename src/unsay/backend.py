"""What generates a model's answers when this process does not: a vLLM server started for it, or one that runs already.

Plain data and what can be wrong with it; starting is `unsay.evaluate.serving`, talking to it `unsay.engine.server`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

VLLM: Final = "vllm"
SERVER: Final = "server"

KEY_VARIABLE = "UNSAY_SERVER_KEY"
"""Environment variable with the key of a server that runs already; it is sent to that server and written nowhere."""

START_TIMEOUT = 600.0
TIMEOUT = 600.0

# Arguments of vLLM that this package sets itself, and what to use instead.
_SET: Mapping[str, str] = {
    "--model": "`path:` of the model",
    "--tokenizer": "`path:` of the model",
    "--revision": "`revision:` of the model",
    "--code-revision": "`revision:` of the model",
    "--tokenizer-revision": "`revision:` of the model",
    "--trust-remote-code": "`trust_remote_code:` of the model",
    "--dtype": "`unsay run --dtype`",
    "--host": "nothing: the server is reachable from this machine only",
    "--port": "nothing: a free port is taken",
    "--uds": "nothing: a free port is taken",
    "--api-key": "nothing: a key is made up for each server",
    "--served-model-name": "nothing: a name is made up for each server",
    "--config": "`args:`, one by one",
}
# Arguments that change what is computed: the numbers would no longer be those of the experiment's model.
_NUMBERS = (
    "--quantization",
    "--kv-cache-dtype",
    "--load-format",
    "--hf-overrides",
    "--hf-config-path",
    "--enable-lora",
    "--lora-modules",
    "--logits-processors",
    "--logits-processor-pattern",
    "--logprobs-mode",
    "--generation-config",
    "--override-generation-config",
    "--model-impl",
)
_SHORT: Mapping[str, str] = {"-q": "--quantization"}


@dataclass(frozen=True)
class Backend:
    """Where a model's answers come from. Recorded with every run, and no part of an experiment's identity."""

    kind: Literal["vllm", "server"]
    interpreter: str | None = None
    """Python of the environment that vLLM is installed in, absolute; None: the one that runs unsay."""
    args: tuple[str, ...] = ()
    """Further arguments for the vLLM server."""
    start_timeout: float = START_TIMEOUT
    """Seconds that a vLLM server may take until it answers."""
    url: str | None = None
    """Address of a server that runs already, `/v1` included."""
    served_name: str | None = None
    """What that server calls the model; None: it has one only."""
    timeout: float = TIMEOUT
    """Seconds that one request may take."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Backend:
        return cls(**{**value, "args": tuple(value["args"])})

    def to_json(self) -> dict[str, Any]:
        """Return what a run records of its backend."""
        if self.kind == SERVER:
            return {"kind": self.kind, "url": self.url, "model": self.served_name}
        return {"kind": self.kind, "interpreter": self.interpreter, "args": list(self.args)}


def wrong_url(url: str) -> str | None:
    """Say why a server cannot be reached at an address; None where it can be tried."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no address; expected one such as http://127.0.0.1:8000/v1"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is no http address; expected one such as http://127.0.0.1:8000/v1"
    if parts.username is not None or parts.password is not None:
        return f"holds a password, which would be written down with it; put it into the variable {KEY_VARIABLE}"
    if parts.query or parts.fragment:
        return f"goes on behind its path; expected http://127.0.0.1:8000/v1 (a key goes into {KEY_VARIABLE})"
    return None


def wrong_args(args: tuple[str, ...]) -> list[str]:
    """Say which arguments of a vLLM server cannot be chosen in an experiment file, and why."""
    found = []
    for arg in args:
        name = arg.partition("=")[0].replace("_", "-").lower()
        name = name.partition(".")[0]
        name = _SHORT.get(name[:2], name) if not name.startswith("--") else name
        if not name.startswith("--") or len(name) < 3:
            continue
        # vLLM takes any beginning of an argument for it that no other one has.
        instead = next((use for known, use in _SET.items() if known == name), None)
        begins = [known for known in (*_SET, *_NUMBERS) if known.startswith(name)]
        if instead is not None:
            found.append(f"{arg}: unsay sets this itself; use {instead}")
        elif name in _NUMBERS:
            found.append(f"{arg}: this changes what the model computes, and the results would still bear its name")
        elif begins:
            found.append(f"{arg}: write arguments in full; this may mean {begins[0]}")
    return found


def missing_interpreter(backend: Backend) -> str | None:
    """Say why vLLM cannot be started with a backend's interpreter; None where nothing speaks against it."""
    if backend.interpreter is None:
        if importlib.util.find_spec("vllm") is None:
            return (
                "vLLM is not installed beside unsay; name the Python of its environment: "
                "`backend: {vllm: ~/vllm/bin/python}`"
            )
        return None
    path = Path(backend.interpreter)
    if not path.exists():
        return f"there is no {path}; name the Python of the environment that vLLM is installed in"
    if path.is_dir() or not os.access(path, os.X_OK):
        return f"{path} cannot be run; name the Python of the environment, such as {path}/bin/python"
    return None
