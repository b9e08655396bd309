"""``iser-target plan|schema|import``: commands about configurations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from target.admin import DEFAULT_SOCKET, ask
from target.admin.cli import Where
from target.config.diff import diff
from target.config.importing import import_file
from target.config.model import load
from target.config.schema import schema_text

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("plan")(plan)
    app.command("schema")(print_schema)
    app.command("import")(import_)


def plan(
    new: Annotated[Path, typer.Argument(help="The configuration that shall be served.")],
    old: Annotated[Path | None, typer.Argument(help="What it is compared with, instead of what is in force.")] = None,
    admin: Where = DEFAULT_SOCKET,
) -> None:
    """Say what a reload of NEW would change, one line for each difference, and which sessions it touches.

    The target that runs is asked what is in force; with OLD, none needs to run.
    """
    wanted = load(new)
    changes = [str(change) for change in diff(load(old), wanted)] if old else _ask(new, admin)
    for change in changes:
        typer.echo(change)
    if not changes:
        typer.echo("no difference")


def _ask(new: Path, admin: Path) -> list[str]:
    """What the target says that runs.  It gets the tables, as it may not be allowed to read the file."""
    tables = tomllib.loads(new.read_text(encoding="utf-8"))
    lines: list[str] = ask(admin, "plan", tables=tables, base=str(new.absolute().parent))
    return lines


def print_schema() -> None:
    """Print the JSON Schema of the configuration."""
    typer.echo(schema_text(), nl=False)


def import_(
    file: Annotated[Path, typer.Argument(help="LIO's saveconfig.json, or tgt's targets.conf.")],
) -> None:
    """Print the configuration of another target as ours; what has no counterpart is listed on stderr."""
    imported = import_file(file)
    typer.echo(imported.text, nl=False)
    for note in imported.notes:
        typer.echo(note, err=True)
