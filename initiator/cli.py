"""``iser``: discover, info, read, write, copy, ping, conformance, demo, bench."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

import initiator
from initiator import demo as demonstration
from initiator.bench.cli import make_app
from initiator.conformance import Request, carry_out
from initiator.conformance.runner import CASE_TIMEOUT
from initiator.doctor import examine
from initiator.lun import Lun
from initiator.report import describe
from initiator.stream import FileSink, FileSource, LunSink, LunSource, Sink, Source, copy
from initiator.url import is_url
from iser.errors import IserError, UsageError
from iser.logs import configure_logging
from iser.sg.planner import STRATEGY_NAMES, check_strategy

__all__ = ["app", "main"]

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143
MAX_PINGS: Final = 1_000_000

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An iSER initiator in userspace. A URL is iser://\\[user%password@]host[:port]/iqn/lun[?option=value&...].",
)

Where = Annotated[str, typer.Argument(metavar="URL", help="The LUN.")]
Lba = Annotated[int, typer.Option("--lba", min=0, help="First block.")]
Pad = Annotated[bool, typer.Option("--pad", help="Fill up a partial last block with zeroes.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iser {version('iser')}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    log: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]LEVEL", help="What to log to stderr, e.g. iser.sg=debug.")
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"How lists are registered: {', '.join(STRATEGY_NAMES)}.")] = "",
    no_bounce: Annotated[bool, typer.Option("--no-bounce", help="Refuse a list in place of copying it.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    with _reported():
        configure_logging(log or (), logging.WARNING)
        context.obj = {"strategy": check_strategy(strategy, no_bounce=no_bounce)} if strategy else {}
        if no_bounce:
            context.obj["no_bounce"] = True


# How a command ends


@contextmanager
def _reported() -> Iterator[None]:
    """Errors become one line on stderr and an exit code, never a trace."""
    try:
        yield
    except UsageError as error:
        _fail(error, EXIT_USAGE)
    except IserError as error:
        _fail(error, EXIT_FAILURE)
    except BrokenPipeError:
        # Nobody reads what we write: end, and keep the interpreter from trying once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(EXIT_FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(error: IserError, code: int) -> None:
    typer.echo(f"iser: {error}", err=True)
    raise typer.Exit(code) from None


def _run(work: Coroutine[Any, Any, None]) -> None:
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    with _reported(), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_terminable(work))


async def _terminable(work: Coroutine[Any, Any, None]) -> None:
    """Let SIGTERM cancel the work, so that what it started is ended too."""
    task = asyncio.ensure_future(work)
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        await task
    except asyncio.CancelledError:
        if not terminated:
            task.cancel()
            await asyncio.wait((task,))
            raise
        raise typer.Exit(EXIT_TERMINATED) from None


# Sources and sinks


@asynccontextmanager
async def _lun(url: str, options: dict[str, Any]) -> AsyncIterator[Lun]:
    async with await initiator.connect(url, **options) as lun:
        yield lun


@asynccontextmanager
async def _source(where: str, options: dict[str, Any]) -> AsyncIterator[Source]:
    if is_url(where):
        async with _lun(where, options) as lun:
            yield LunSource(lun)
        return
    source = FileSource.open(where)
    try:
        yield source
    finally:
        source.close()


@asynccontextmanager
async def _file_sink(path: str) -> AsyncIterator[Sink]:
    sink = FileSink.open(path)
    try:
        yield sink
    finally:
        sink.close()


@contextmanager
def _progress(what: str, size: int | None) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=size)
        yield lambda length: bar.advance(task, length)


async def _copy(what: str, source: Source, sink: Sink) -> None:
    with _progress(what, source.size) as progress:
        await copy(source, sink, progress)


# Commands


@app.command()
def discover(portal: Annotated[str, typer.Argument(help="host[:port]")]) -> None:
    """List the targets of a portal, one line for each of their addresses."""

    async def work() -> None:
        for record in await initiator.discover(portal):
            for address in record.addresses or ("",):
                typer.echo(f"{record.name}  {address}".rstrip())

    _run(work())


@app.command()
def info(context: typer.Context, url: Where) -> None:
    """Say what a LUN is, how it is reached and what was negotiated."""

    async def work() -> None:
        async with _lun(url, context.obj) as lun:
            lines = await describe(lun)
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            typer.echo(f"{name:<{width}}  {value}".rstrip())

    _run(work())


@app.command()
def read(
    context: typer.Context,
    url: Where,
    lba: Lba = 0,
    count: Annotated[int | None, typer.Option(min=0, help="Blocks; all from --lba on if left out.")] = None,
) -> None:
    """Read blocks to standard output."""

    async def work() -> None:
        _refuse_terminal(sys.stdout.isatty(), "standard output is a terminal; redirect it to a file or a pipe")
        async with _lun(url, context.obj) as lun, _file_sink("-") as sink:
            await _copy("reading", LunSource(lun, lba, count), sink)

    _run(work())


@app.command()
def write(context: typer.Context, url: Where, lba: Lba = 0, pad: Pad = False) -> None:
    """Write standard input to blocks, and have it reach the medium."""

    async def work() -> None:
        _refuse_terminal(sys.stdin.isatty(), "standard input is a terminal; redirect it from a file or a pipe")
        async with _source("-", {}) as source, _lun(url, context.obj) as lun:
            await _copy("writing", source, LunSink(lun, lba, source.size, pad=pad))

    _run(work())


@app.command(name="copy")
def copy_command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A URL, a file, or - for standard input.")],
    destination: Annotated[str, typer.Argument(help="A URL, a file, or - for standard output.")],
    pad: Pad = False,
) -> None:
    """Copy all of a LUN, a file or standard input to another."""

    async def work() -> None:
        async with _source(source, context.obj) as origin:
            if is_url(destination):
                async with _lun(destination, context.obj) as lun:
                    await _copy("copying", origin, LunSink(lun, 0, origin.size, pad=pad))
            else:
                async with _file_sink(destination) as sink:
                    await _copy("copying", origin, sink)

    _run(work())


@app.command()
def ping(
    context: typer.Context,
    url: Where,
    count: Annotated[int, typer.Option(min=1, max=MAX_PINGS, help="How many.")] = 4,
    interval: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Seconds between two.")] = 1.0,
) -> None:
    """Send NOP-Outs and time their answers."""

    async def work() -> None:
        times = []
        async with _lun(url, context.obj) as lun:
            for number in range(count):
                if number:
                    await asyncio.sleep(interval)
                start = time.perf_counter()
                await lun.session.nop(b"iser ping")
                times.append((time.perf_counter() - start) * 1e6)
                typer.echo(f"answer {number + 1} from {lun.portal}: {times[-1]:.0f} us")
        typer.echo(f"min {min(times):.0f} us, mean {sum(times) / count:.0f} us, max {max(times):.0f} us")

    _run(work())


@app.command()
def conformance(  # noqa: PLR0913, PLR0917 - one for each option
    url: Annotated[str | None, typer.Argument(metavar="URL", help="The LUN of the target to test.")] = None,
    destructive: Annotated[bool, typer.Option(help="Also run what overwrites the first MiB of the LUN.")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Groups or cases, e.g. flow.*")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Groups or cases to leave out.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the cases and run none.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcomes as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcomes as JUnit XML.")] = None,
    timeout: Annotated[float, typer.Option(min=1.0, max=600.0, help="Seconds for each case.")] = CASE_TIMEOUT,
    settle: Annotated[float, typer.Option(min=0.0, max=60.0, help="Seconds between a login and a write.")] = 0.0,
) -> None:
    """Check an iSER target against the standards; exit code 1 when a case fails."""

    async def work() -> None:
        request = Request(url, only or [], skip or [], listing, destructive, json, junit, timeout, settle)
        if not await carry_out(request):
            raise typer.Exit(EXIT_FAILURE)

    _run(work())


@app.command()
def demo() -> None:
    """Write and read back every class of scatter-gather list, and verify each byte."""
    _run(demonstration.run())


@app.command()
def doctor(host: Annotated[str, typer.Argument(help="A host: say how it would be reached.")] = "") -> None:
    """Show the RDMA devices and their limits, and what is missing to use them; exit code 1 if something is."""
    healthy = True

    async def work() -> None:
        nonlocal healthy
        lines, healthy = await examine(host)
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            typer.echo(f"{name:<{width}}  {value}")

    _run(work())
    if not healthy:
        raise typer.Exit(EXIT_FAILURE)


def _refuse_terminal(terminal: bool, why: str) -> None:
    if terminal:
        raise UsageError(why)


app.add_typer(make_app(_run, _reported), name="bench")


def main() -> None:
    """Entry point of the ``iser`` script."""
    app()


if __name__ == "__main__":
    main()
