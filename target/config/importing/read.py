"""Which kind of file it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from iser.errors import UsageError
from target.config.importing.document import Imported
from target.config.importing.lio import import_lio
from target.config.importing.tgt import import_tgt

__all__ = ["MAX_FILE", "import_file"]

#: Bytes of a file that is taken for a configuration.
MAX_FILE: Final = 64 << 20


def import_file(file: Path) -> Imported:
    """Import LIO's ``saveconfig.json``, which is JSON, or tgt's ``targets.conf``, which is not.  Raises UsageError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{file}: is longer than {MAX_FILE} bytes, so it is no configuration")
    try:
        imported = _import(data.decode())
        imported.text.encode()
    except UnicodeError as error:
        raise UsageError(f"{file}: is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}: line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: is nested too deep for a configuration") from error
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    if "[[target]]" not in imported.text:
        raise UsageError("\n".join([f"{file}: has no target that can be imported", *imported.notes]))
    return imported


def _import(text: str) -> Imported:
    if not text.lstrip().startswith(("{", "[")):
        return import_tgt(text)
    data = json.loads(text)
    if not isinstance(data, dict):
        raise UsageError("is JSON, but not a saveconfig.json of LIO")
    return import_lio(data)
