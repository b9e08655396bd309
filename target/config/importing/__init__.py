"""Configurations of other targets as ours."""

from __future__ import annotations

from target.config.importing.document import Imported
from target.config.importing.read import import_file

__all__ = ["Imported", "import_file"]
