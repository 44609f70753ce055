"""The mark that hides an experiment from lists and the page: a file of its own beside the record.

It is there or not, whatever crashes; runs rewrite the record and leave it alone, so that it survives them.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from unsay.errors import StoreError
from unsay.records import SCHEMA
from unsay.store import layout, write


def archive(folder: Path) -> None:
    """Hide an experiment; one that is hidden stays so."""
    mark = folder / layout.ARCHIVED
    if not mark.exists():
        write.write_json(mark, {"schema": SCHEMA, "time": datetime.now().astimezone().isoformat(timespec="seconds")})


def restore(folder: Path) -> None:
    """Bring an experiment back; one that is not hidden stays so."""
    try:
        (folder / layout.ARCHIVED).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot remove {folder / layout.ARCHIVED}: {error.strerror or error}. Check the permissions of its folder."
        ) from error
    write.sync_folder(folder)
