"""``iser-target plan|schema|import``: commands about configurations, which need no target that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    old: Annotated[Path, typer.Argument(help="The configuration that is served now.")],
) -> None:
    """Say what a reload would change from OLD to NEW, one line for each difference, and which sessions it touches."""
    changes = diff(load(old), load(new))
    for change in changes:
        typer.echo(str(change))
    if not changes:
        typer.echo("no difference")


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
