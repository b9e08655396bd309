"""``iser-target``: serve and check."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from iser.errors import IserError, UsageError
from iser.logs import configure_logging
from target.config import Config, config_from_flags, load
from target.server import TargetServer

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A userspace iSER target."
)

Log = Annotated[
    list[str] | None, typer.Option("--log", metavar="[NAME=]LEVEL", help="What to log to stderr, e.g. iser.sg=debug.")
]


@app.command()
def serve(
    config: Annotated[Path | None, typer.Argument(help="A TOML configuration; without one the flags say all.")] = None,
    memory: Annotated[str | None, typer.Option(help="Size of a LUN in memory, e.g. 256M.")] = None,
    file: Annotated[str | None, typer.Option(help="Path of a LUN in a file.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the file, which is made if it is not there.")] = None,
    name: Annotated[str, typer.Option(help="iSCSI name of the target.")] = "iqn.2026-11.demo:disk",
    listen: Annotated[
        list[str] | None, typer.Option(help="A portal, iser://HOST:PORT or iscsi://HOST:PORT for TCP; repeatable.")
    ] = None,
    log: Log = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then end in good order."""
    configure_logging(log or (), logging.INFO)
    flags = {"--memory": memory, "--file": file, "--size": size, "--listen": listen}
    if config is not None:
        given = [flag for flag, value in flags.items() if value]
        if given:
            raise UsageError(f"{given[0]} goes without a configuration file; write it into {config}")
        settings = load(config)
    else:
        settings = config_from_flags(
            name=name, listen=listen or ["iser://127.0.0.1:3260"], memory=memory, file=file, size=size
        )
    _run(settings)


@app.command()
def check(config: Annotated[Path, typer.Argument(help="A TOML configuration.")]) -> None:
    """Say what is wrong with a configuration, one line for each fault, with its place."""
    settings = load(config)
    luns = sum(len(target.lun) for target in settings.target)
    typer.echo(f"{config}: good: {len(settings.portal)} portals, {len(settings.target)} targets, {luns} LUNs")


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await TargetServer.start(config)
    for portal in server.portals:
        typer.echo(f"listening {portal}")
    sys.stdout.flush()
    await stop.wait()
    await server.close()


def _run(config: Config) -> None:
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional, and only a server pays for importing it

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(config))


def main() -> None:
    """Entry point: errors become one line each on stderr, exit code 2 for the user's and 1 for the rest."""
    try:
        app()
    except UsageError as error:
        typer.echo(error, err=True)
        sys.exit(2)
    except IserError as error:
        typer.echo(error, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
