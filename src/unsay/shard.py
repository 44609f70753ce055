"""A process that helps with answers in parts, wherever an executor starts it; see `unsay.evaluate.shards`.

    python -m unsay.shard FOLDER      # events as JSON lines on standard output, everything else into the log

It answers the parts in the folder that nobody is at, one after the other, and ends when there is none left.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from unsay import worker
from unsay.errors import UnsayError
from unsay.redaction import redact


def main() -> int:
    with worker.process() as report:
        try:
            from unsay.evaluate.shards import help_with

            answered = help_with(Path(sys.argv[1]), report)
        except KeyboardInterrupt as error:
            report({"event": "end", "status": "cancelled", "error": str(error), "may_pass": False})
            return 1
        except Exception as error:  # the trace is kept in the log; the parts can be answered by others
            sys.stderr.write(redact(traceback.format_exc()))
            said = str(error) if isinstance(error, UnsayError) else f"{type(error).__name__}: {error}"
            report({"event": "end", "status": "failed", "error": redact(said), "may_pass": False})
            return 1
        report({"event": "end", "status": "completed", "error": None, "may_pass": False, "parts": answered})
        return 0


if __name__ == "__main__":
    sys.exit(main())
