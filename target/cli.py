"""``iser-target``: serve, check, other commands about configurations, and the clients of a target that runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from iser.errors import IserError, UsageError
from iser.logs import LogFormat, configure_logging
from target.admin import cli as admin_cli
from target.admin.commands import Command
from target.admin.control import Control, admin_settings
from target.admin.plan import plan_of
from target.config import AdminConfig, Config, config_from_flags, load
from target.config import cli as config_cli
from target.loop import leave, run
from target.notify import notify
from target.reload import reload_file, reload_on
from target.server import TargetServer
from target.workers import Logging, Supervisor, WorkersAdministration, describe, metrics_of

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A userspace iSER target."
)

admin_cli.register(app)
config_cli.register(app)

Log = Annotated[
    list[str] | None, typer.Option("--log", metavar="[NAME=]LEVEL", help="What to log to stderr, e.g. iser.sg=debug.")
]


@app.command()
def serve(  # noqa: PLR0913, PLR0917 - each option of the command is an argument
    config: Annotated[Path | None, typer.Argument(help="A TOML configuration; without one the flags say all.")] = None,
    memory: Annotated[str | None, typer.Option(help="Size of a LUN in memory, e.g. 256M.")] = None,
    file: Annotated[str | None, typer.Option(help="Path of a LUN in a file.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the file, which is made if it is not there.")] = None,
    name: Annotated[str, typer.Option(help="iSCSI name of the target.")] = "iqn.2026-11.demo:disk",
    listen: Annotated[
        list[str] | None, typer.Option(help="A portal, iser://HOST:PORT or iscsi://HOST:PORT for TCP; repeatable.")
    ] = None,
    admin: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Socket for 'iser-target status' and its like.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Metrics for Prometheus, e.g. 127.0.0.1:9260.")
    ] = None,
    log: Log = None,
    log_format: Annotated[LogFormat, typer.Option(help="Lines of text, or JSON objects.")] = LogFormat.TEXT,
) -> None:
    """Serve until SIGTERM or SIGINT, then end in good order.  SIGHUP reads the configuration anew."""
    configure_logging(log or (), logging.INFO, log_format)
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
    run(_serve(settings, admin_settings(settings.admin, admin, metrics), config, Logging.of(log or (), log_format)))


@app.command()
def check(config: Annotated[Path, typer.Argument(help="A TOML configuration.")]) -> None:
    """Say what is wrong with a configuration, one line for each fault, with its place."""
    settings = load(config)
    luns = sum(len(target.lun) for target in settings.target)
    workers = asyncio.run(describe(settings)) if settings.workers > 1 else []
    typer.echo(f"{config}: good: {len(settings.portal)} portals, {len(settings.target)} targets, {luns} LUNs")
    for line in workers:
        typer.echo(line)


async def _serve(config: Config, admin: AdminConfig, file: Path | None, logging_: Logging) -> None:
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    several = config.workers > 1
    server = await Supervisor.start(config, logging_) if several else await TargetServer.start(config)
    server.file = file

    async def reload(arguments: dict[str, object]) -> list[str]:
        if arguments:
            raise UsageError("reload takes no arguments")
        return [str(change) for change in await reload_file(server)]

    try:
        control = await _control(server, admin, {"reload": reload, "plan": partial(plan_of, server)})
    except IserError:
        await server.close()
        raise
    for line in (*(f"listening {portal}" for portal in server.portals), *control.lines):
        typer.echo(line)
    sys.stdout.flush()
    notify("READY=1")
    reloading = asyncio.create_task(reload_on(hangup, server))
    await stop.wait()
    notify("STOPPING=1")
    await server.close()  # which lets a reload end that has begun
    reloading.cancel()
    await control.close()  # after the server, so that one may see what it still waits for
    if isinstance(server, TargetServer) and server.stuck:
        leave()


async def _control(server: TargetServer | Supervisor, admin: AdminConfig, more: Mapping[str, Command]) -> Control:
    if isinstance(server, TargetServer):
        return await Control.open(server, admin, more)
    return await Control.of(WorkersAdministration(server, more), partial(metrics_of, server), admin)


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
