"""The commands of ``iser bench``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from initiator.bench import job as jobs
from initiator.bench import loopback as loopback_bench
from initiator.bench import mr as mr_bench
from initiator.bench.cases import ALL_STRATEGIES, CORE, FULL, MULTI_MR, QUICK, RAW_TCP, Axes, cases_of
from initiator.bench.compare import compare, differences, show_comparison
from initiator.bench.environment import describe_environment
from initiator.bench.progress import shown_progress
from initiator.bench.result import Journal, Result, write_text
from initiator.bench.runner import LEAD, SLICE_MIN, Settings, Unaligned
from initiator.bench.shapes import EVERY_NAME
from initiator.bench.table import show
from initiator.options import parse_size
from initiator.url import Url
from iser.errors import UsageError
from iser.sg.strategies import AUTO

__all__ = ["make_app"]

EXIT_WORSE: Final = 3
WIDTH: Final = 180  # columns of a table where there is no terminal to ask
MIN_REPEATS: Final = 5
DEFAULT_SECONDS: Final = 0.2
_OVERHEAD: Final = 8 / 7  # of a turn, with what verifying, warming and connecting take

Runner = Callable[[Coroutine[Any, Any, None]], None]


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _plan(*, quick: bool, full: bool, given: dict[str, str]) -> Sequence[Axes]:
    """The matrix: one of the three, or the core cut with the axes that were given."""
    if quick and full:
        raise UsageError("--quick and --full contradict each other; choose one")
    plan = QUICK if quick else FULL if full else CORE
    if not any(given.values()):
        return plan
    changes: dict[str, Any] = {name: _words(text) for name, text in given.items() if text}
    for name, both in (("invalidate", "remote,local"), ("directions", "read,write")):
        if changes.get(name) == ("both",):
            changes[name] = _words(both)
    for name in ("sizes", "depths"):
        if name in changes:
            changes[name] = tuple(parse_size(word) for word in changes[name])
    return (replace(plan[0], **changes),)


def _check_places(output: Path, report: Path | None) -> None:
    """What cannot be written is told before hours of measuring, and not after them."""
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; --output is the file of the JSON")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output}: cannot be written: no permission in its folder")
    if report is not None:
        from initiator.bench.report import check_report  # noqa: PLC0415 - needs the bench extra

        check_report(report)


def _save(result: Result, output: Path, report: Path | None) -> None:
    result.save(output)
    write_text(output.with_suffix(".csv"), result.to_csv())
    if report is not None:
        from initiator.bench.report import write_report  # noqa: PLC0415 - needs the bench extra

        write_report(result, report)


def make_app(run: Runner, report_errors: Callable[[], Any]) -> typer.Typer:
    """The commands; ``run`` carries out a coroutine, ``report_errors`` is a context that reports errors."""
    app = typer.Typer(no_args_is_help=True, help="Measure: exact counts first, times second.")
    _add_unaligned(app, run)
    _add_mr(app, report_errors)
    _add_io(app, run)
    _add_compare(app, report_errors)
    _add_report(app, report_errors)

    @app.command()
    def loopback(
        seconds: Annotated[float, typer.Option(min=0.1, max=600.0, help="For each measurement.")] = 2.0,
    ) -> None:
        """Throughput and IOPS against raw TCP, all on loopback and in this run."""
        run(loopback_bench.run(seconds))

    return app


def _add_unaligned(app: typer.Typer, run: Runner) -> None:
    @app.command()
    def unaligned(  # noqa: PLR0913 - each flag is an axis or a setting of its own
        context: typer.Context,
        url: Annotated[str, typer.Argument(metavar="[URL]", help="The LUN; its first 64 MiB are overwritten.")] = "",
        *,
        embedded: Annotated[bool, typer.Option("--embedded", help="A target of our own in another process.")] = False,
        quick: Annotated[bool, typer.Option("--quick", help="A small cut.")] = False,
        full: Annotated[bool, typer.Option("--full", help="The whole matrix: hours.")] = False,
        shapes: Annotated[str, typer.Option(help=f"Of {', '.join(EVERY_NAME)}.")] = "",
        strategies: Annotated[str, typer.Option(help=f"Of {', '.join((*ALL_STRATEGIES, AUTO, RAW_TCP))}.")] = "",
        sizes: Annotated[str, typer.Option(help="Bytes, as in 4K,64K,1M.")] = "",
        depths: Annotated[str, typer.Option(help="Transfers at once, as in 1,32.")] = "",
        invalidate: Annotated[str, typer.Option(help="Who invalidates keys: remote (the target), local or both.")] = "",
        directions: Annotated[str, typer.Option(help="read, write or both.")] = "",
        seconds: Annotated[float, typer.Option(min=0.001, max=600, help="Of each repeat of a case.")] = DEFAULT_SECONDS,
        time: Annotated[float, typer.Option(min=0, help="Seconds for all, in place of --seconds.")] = 0.0,
        repeats: Annotated[int, typer.Option(min=1, max=1000)] = MIN_REPEATS,
        seed: Annotated[int, typer.Option(help="Of layouts and data.")] = 1,
        fresh: Annotated[bool, typer.Option("--fresh", help="Make each list anew for each transfer.")] = False,
        output: Annotated[Path, typer.Option(help="The JSON; a CSV goes beside it.")] = Path("unaligned.json"),
        report: Annotated[Path | None, typer.Option(help="A folder for the HTML report and plots.")] = None,
        restart: Annotated[bool, typer.Option("--restart", help="Begin anew in place of going on.")] = False,
    ) -> None:
        """What scatter-gather shapes cost under each registration strategy.

        A run that was ended goes on where it was when started again with the same settings.
        """

        async def work() -> None:
            if bool(url) == embedded:
                raise UsageError("give either the URL of a LUN or --embedded")
            if context.obj:
                raise UsageError("the strategies are what is compared; choose them by --strategies, behind the command")
            _check_places(output, report)
            given = {
                "shapes": shapes, "strategies": strategies, "sizes": sizes, "depths": depths,
                "invalidate": invalidate, "directions": directions,
            }  # fmt: skip
            cases = cases_of(_plan(quick=quick, full=full, given=given), embedded=embedded)
            if not cases:
                ours = "" if embedded else f"; {MULTI_MR} and {RAW_TCP} need a peer of our own, --embedded"
                raise UsageError(f"no strategy that was asked for serves the shapes that were asked for{ours}")
            # An eighth goes into verifying, warming and connecting.
            each = max(time * 7 / 8 / len(cases) / repeats - LEAD, SLICE_MIN) if time else seconds
            bench = Unaligned(cases, Settings(round(each, 4), repeats, seed, fresh), _iser_url(url) if url else None)
            async with bench:
                await _run_unaligned(bench, output, report, restart=restart)

        run(work())


def _iser_url(text: str) -> Url:
    url = Url.parse(text)
    if url.portal.transport != "iser":
        raise UsageError("plain iSCSI registers no memory, so all strategies are one; give an iser:// URL")
    return url


async def _run_unaligned(bench: Unaligned, output: Path, report: Path | None, *, restart: bool) -> None:
    result = bench.new_result()
    path = output.with_suffix(".journal")
    if restart:
        path.unlink(missing_ok=True)
    journal = Journal(path, result)
    if journal.done:
        typer.echo(f"going on with {path}: {len(journal.done)} of {len(bench.cases)} cases are there", err=True)
    try:
        with shown_progress((bench.settings.seconds + LEAD) * _OVERHEAD) as progress:
            await bench.run(result, journal, progress)
    except BaseException:
        if journal.done:
            done = f"{len(journal.done)} of {len(bench.cases)} cases are in {path}"
            typer.echo(f"iser: {done}; the same command goes on from there", err=True)
        raise
    show(result, _console())
    _save(result, output, report)
    journal.remove()


def _add_mr(app: typer.Typer, report_errors: Callable[[], Any]) -> None:
    @app.command()
    def mr(
        seconds: Annotated[float, typer.Option(min=0.001, max=60, help="For each number.")] = 0.1,
        crossover: Annotated[bool, typer.Option(help="Find where registering beats copying, too.")] = True,
        output: Annotated[Path | None, typer.Option(help="A JSON file.")] = None,
    ) -> None:
        """What registering a list costs by its elements, and from which size on it beats copying."""
        with report_errors():
            rows = mr_bench.measure(seconds)
            crossings = mr_bench.crossovers(seconds / 10) if crossover else []
            mr_bench.show(rows, crossings, _console())
            if output:
                data = {
                    "schema": "iser-bench-mr", "version": 1, "environment": describe_environment("no connection"),
                    "rows": [row.to_json() for row in rows],
                    "crossovers": [
                        {"shape": shape, "against": against, "size": size, "points": points}
                        for shape, against, size, points in crossings
                    ],
                }  # fmt: skip
                write_text(output, json.dumps(data, indent=1) + "\n")


def _add_io(app: typer.Typer, run: Runner) -> None:
    @app.command()
    def io(  # noqa: PLR0913 - each flag is a setting of a job
        context: typer.Context,
        url: Annotated[str, typer.Argument(metavar="URL", help="The LUN; writes overwrite it.")],
        *,
        file: Annotated[Path | None, typer.Option("--job", help="A TOML file of jobs; flags count less.")] = None,
        engine: Annotated[str, typer.Option(help=f"Of {', '.join(jobs.ENGINES)}.")] = "iser",
        read: Annotated[int, typer.Option(help="Percent of the transfers that read.")] = 100,
        size: Annotated[str, typer.Option(help="Of one transfer, as in 4K.")] = "4K",
        depth: Annotated[int, typer.Option(help="Transfers at once.")] = 32,
        runtime: Annotated[float, typer.Option(help="Seconds.")] = 5.0,
        pattern: Annotated[str, typer.Option(help="random or sequential.")] = "random",
        shape: Annotated[str, typer.Option(help="Of the lists.")] = "S0",
        strategy: Annotated[str, typer.Option(help="How lists are registered, in place of what the URL says.")] = "",
        output: Annotated[Path | None, typer.Option(help="A JSON file.")] = None,
    ) -> None:
        """A job like fio's: mix, size, depth, runtime, offsets and the shape of the lists."""

        async def work() -> None:
            if engine not in jobs.ENGINES:
                raise UsageError(f"engine {engine!r} does not exist; choose among {', '.join(jobs.ENGINES)}")
            flags = jobs.Job("job", read, parse_size(size), depth, runtime, pattern, shape, strategy)
            everywhere = context.obj or {}  # the flags before the command
            outcomes = []
            for given in jobs.load_jobs(file) if file else [flags]:
                one = replace(given, **{**everywhere, "strategy": given.strategy or everywhere.get("strategy", "")})
                mover = await jobs.ENGINES[engine](url, one)
                try:
                    outcomes.append(await jobs.run_job(mover, one))
                finally:
                    await mover.close()
                jobs.show_outcome(outcomes[-1], _console())
            if output:
                data = {
                    "schema": "iser-bench-io", "version": 1, "environment": describe_environment(engine),
                    "jobs": [outcome.to_json() for outcome in outcomes],
                }  # fmt: skip
                write_text(output, json.dumps(data, indent=1) + "\n")

        run(work())


def _add_compare(app: typer.Typer, report_errors: Callable[[], Any]) -> None:
    @app.command(name="compare")
    def compare_command(
        first: Annotated[Path, typer.Argument(metavar="A.json")],
        second: Annotated[Path, typer.Argument(metavar="B.json")],
        threshold: Annotated[float, typer.Option(min=0, max=1, help="Loss that counts, as a share.")] = 0.05,
    ) -> None:
        """Ratios of two results, with confidence; exits with 3 when the second is worse."""
        with report_errors():
            before, after = Result.load(first), Result.load(second)
            found = compare(before, after)
            for difference in differences(before, after):
                typer.echo(f"not alike, so that times may differ for that: {difference}", err=True)
            if show_comparison(found, threshold, _console()):
                raise typer.Exit(EXIT_WORSE)


def _add_report(app: typer.Typer, report_errors: Callable[[], Any]) -> None:
    @app.command(name="report")
    def report_command(
        result: Annotated[Path, typer.Argument(metavar="RESULT.json")],
        folder: Annotated[Path, typer.Argument(help="Where the HTML report and the plots go.")],
    ) -> None:
        """Draw the plots and write the report of a result that is there already."""
        with report_errors():
            from initiator.bench.report import write_report  # noqa: PLC0415 - needs the bench extra

            write_report(Result.load(result), folder)
