"""Make the folder of results that tests keep of every schema: run once per schema, at its release.

    python scripts/make_released.py       # tests/released/schema_<n>/

Two answers of the bundled model as it is and of a short training with undo: every format there is, in few bytes. What
only goes on from where a run stopped (checkpoints, logs) is left out, and so are the names of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import unsay  # noqa: E402
from tests import crash, released  # noqa: E402
from unsay import cli  # noqa: E402
from unsay.records import SCHEMA  # noqa: E402
from unsay.store import layout  # noqa: E402

ITEMS, ROWS = 2, 8


def main() -> int:
    target = released.FOLDERS / f"schema_{SCHEMA}"
    if target.exists():
        print(f"{target} is there already, and is never made again: it is what that release wrote", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        lab = crash.make_lab(Path(temporary) / "lab", experiments=3, max_steps=2, lora_rank=1)
        for split, count in (("train", ROWS), ("test", ITEMS)):
            path = lab / "data" / f"{split}.jsonl"
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
        os.chdir(lab)
        code = cli.main([*crash.run_arguments(), "EXP-001", "EXP-003"])
        if code == 0:
            shorten(lab)
            shutil.copytree(lab, target)
            expected = released.summary(target / "outputs")
            (target / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    return code


def shorten(lab: Path) -> None:
    outputs = lab / "outputs"
    for path in [*outputs.rglob("checkpoint-*"), *outputs.rglob(layout.LOGS), *outputs.rglob("runs")]:
        shutil.rmtree(path)
    for path in [*outputs.rglob("training_loss.*"), *outputs.rglob("README.md"), *outputs.rglob(".*")]:
        if path.is_file():
            path.unlink()
    host = os.uname().nodename
    names = {str(lab): "/a/lab", str(Path(unsay.__file__).parent): "/a/unsay"}
    names |= {f'"host": "{host}"': '"host": "a-machine"', f"on {host};": "on a-machine;"}
    for path in (lab / layout.PAGE, *outputs.rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        for name, instead in names.items():
            text = text.replace(name, instead)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
