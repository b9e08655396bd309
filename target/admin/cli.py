"""``iser-target status|sessions|luns|drop-session|resize|reload|set-log``: clients of the admin socket."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from target.admin.client import DEFAULT_SOCKET, ask

__all__ = ["Where", "duration", "register", "size_name"]

_PIPE_WIDTH: Final = 240  # columns of a table that is not for a terminal
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

Where = Annotated[
    Path, typer.Option("--admin", envvar="ISER_TARGET_ADMIN", metavar="PATH", help="Admin socket of the target.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for name, command in (
        ("status", status),
        ("sessions", sessions),
        ("luns", luns),
        ("drop-session", drop_session),
        ("resize", resize),
        ("reload", reload),
        ("set-log", set_log),
    ):
        app.command(name)(command)


def status(admin: Where = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """Say how a running target is."""
    result = ask(admin, "status")
    if as_json:
        _print_json(result)
        return
    staging, refused = result["staging"], result["logins_refused"]
    rows = {
        "target": f"version {result['version']}, pid {result['pid']}, up {duration(result['uptime'])}"
        + (", shutting down" if result["draining"] else ""),
        "portals": " ".join(result["portals"]),
        "serving": f"{result['targets']} targets, {result['luns']} LUNs",
        "sessions": f"{result['sessions']} on {result['connections']} connections, {result['logins']} since the start",
        **_redirected(result),
        "refused": ", ".join(f"{reason}: {count}" for reason, count in refused.items()) or "none",
        "staging": f"{size_name(staging['in_use'])} of {size_name(staging['limit'])}, "
        f"at most {size_name(staging['high_water'])}, {staging['waiting']} waiting",
    }
    rows |= {f"worker {each['worker']}": _worker(each) for each in result.get("workers", ())}
    for name, text in rows.items():
        typer.echo(f"{name:10} {_safe(text)}")


def sessions(admin: Where = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """List the sessions of a running target."""
    result = ask(admin, "sessions")
    rows = [
        {
            **_of_worker(each),
            "session": each["session"],
            "initiator": each["initiator"],
            "address": each["address"],
            "transport": each["transport"],
            "target": each["target"] or "(discovery)",
            "age": duration(each["age"]),
            "running": f"{each['running']}/{each['window']}",
            **_counts(each),
        }
        for each in result
    ]
    _show(result, rows, as_json, "no sessions")


def luns(admin: Where = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """List the LUNs of a running target, with what was done to them since its start."""
    result = ask(admin, "luns")
    rows = [
        {
            **_of_worker(each),
            "target": each["target"],
            "LUN": each["lun"],
            "backend": each["backend"] + (" (read only)" if each["read_only"] else ""),
            "size": size_name(each["size"]),
            **_counts(each),
            "mean": _milliseconds(each["latency_mean"]),
            "p99 <": _milliseconds(each["latency_p99"]),
        }
        for each in result
    ]
    _show(result, rows, as_json, "no LUNs")


def drop_session(
    session: Annotated[int, typer.Argument(help="Its number, from 'iser-target sessions'.")],
    admin: Where = DEFAULT_SOCKET,
    as_json: AsJson = False,
) -> None:
    """End a session; its initiator may log in again, unless a rule keeps it out."""
    result = ask(admin, "drop-session", session=session)
    _say(result, f"dropped session {result['session']} of {result['initiator']}", as_json)


def resize(
    lun: Annotated[int, typer.Argument(help="Number of the LUN.")],
    size: Annotated[str | None, typer.Argument(help="New size, e.g. 2G; without it, what the backend is now.")] = None,
    target: Annotated[str | None, typer.Option(help="iSCSI name of the target, where there are several.")] = None,
    admin: Where = DEFAULT_SOCKET,
    as_json: AsJson = False,
) -> None:
    """Resize a LUN while it is in use; its initiators are told."""
    result = ask(admin, "resize", lun=lun, size=size, target=target)
    what = f"{result['target']} LUN {result['lun']}"
    _say(result, f"{what}: {size_name(result['before'])} -> {size_name(result['size'])}", as_json)


def reload(admin: Where = DEFAULT_SOCKET, as_json: AsJson = False) -> None:
    """Let a running target read its configuration anew, and say what it changed; as SIGHUP does."""
    changes = ask(admin, "reload")
    if as_json:
        _print_json(changes)
        return
    for change in changes:
        typer.echo(_safe(change))
    if not changes:
        typer.echo("no difference")


def set_log(
    levels: Annotated[list[str], typer.Argument(metavar="[NAME=]LEVEL...", help="E.g. warning iser.target=debug.")],
    admin: Where = DEFAULT_SOCKET,
    as_json: AsJson = False,
) -> None:
    """Change what a running target logs."""
    result = ask(admin, "set-log", levels=levels)
    _say(result, f"log levels set: {' '.join(result['levels'])}", as_json)


def size_name(size: int) -> str:
    """``512 B``, ``1.5 KiB``, ``2 TiB``."""
    step = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{size / (1 << 10 * step):.4g} {_UNITS[step]}"


def duration(seconds: float) -> str:
    """``4s``, ``3m04s``, ``2h03m``, ``5d02h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _redirected(status: Mapping[str, Any]) -> dict[str, str]:
    """Where there are workers: how many logins were sent to another."""
    return {"redirected": f"{status['logins_redirected']} logins"} if "workers" in status else {}


def _worker(view: Mapping[str, Any]) -> str:
    running = f", pid {view['pid']}, up {duration(view['uptime'])}" if view["pid"] else ""
    again = f", started again {view['restarts']} times" if view["restarts"] else ""
    work = f"{len(view['targets'])} targets, {view['luns']} LUNs, {view['sessions']} sessions"
    return f"{view['state']}{running}{again}: {work}"


def _of_worker(view: Mapping[str, Any]) -> dict[str, object]:
    return {"worker": view["worker"]} if "worker" in view else {}


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"


def _counts(view: Mapping[str, Any]) -> dict[str, object]:
    return {
        "commands": f"{view['commands']:,}",
        "read": size_name(view["read_bytes"]),
        "written": size_name(view["written_bytes"]),
        "errors": f"{view['errors']:,}",
    }


def _show(result: object, rows: Sequence[Mapping[str, object]], as_json: bool, nothing: str) -> None:
    if as_json:
        _print_json(result)
        return
    if not rows:
        typer.echo(nothing)
        return
    table = Table()
    for name, value in rows[0].items():
        right = isinstance(value, int) or str(value)[:1].isdigit()
        table.add_column(name, justify="right" if right and name != "address" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_safe(str(value)) for value in row.values()))
    # Without markup: brackets are of IPv6 addresses here.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False).print(table)


def _safe(text: str) -> str:
    """An initiator chose its name, and must not choose what a terminal does."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _say(result: object, sentence: str, as_json: bool) -> None:
    if as_json:
        _print_json(result)
    else:
        typer.echo(_safe(sentence))


def _print_json(result: object) -> None:
    typer.echo(json.dumps(result, indent=2))
