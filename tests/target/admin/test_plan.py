"""Tests of target.admin.plan: a target that runs is asked what a file would change."""

from __future__ import annotations

import asyncio
import tomllib
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from iser.errors import UsageError
from target.admin.plan import plan_of
from target.cli import app
from target.config import config_from_flags
from target.config.model import load_tables
from tests.target.admin.site import administered, asked

OLD = """
[portal.main]
listen = "iser://127.0.0.1:0"
[[target]]
name = "iqn.2026-11.test:disk"
[[target.lun]]
id = 0
backend = "memory"
size = "1M"
"""


class Served:
    def __init__(self) -> None:
        self.config = config_from_flags(name="iqn.2026-11.test:flags", listen=["iser://127.0.0.1:0"], memory="1M")


async def plan(*words: str | Path) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["plan", *map(str, words)])


async def test_a_running_target_says_what_would_change(tmp_path: Path) -> None:
    settings, path = load_tables(tomllib.loads(OLD), tmp_path), tmp_path / "admin"
    same, other, bad = (tmp_path / f"{name}.toml" for name in ("same", "other", "bad"))
    same.write_text(OLD)
    # A file that has comments and thousands of rules, more than fits a line of 64 KiB.
    rules = "".join(f"[[target.acl]]\ninitiator = 'iqn.2026-11.test:host-{number:040}'\n" for number in range(1000))
    other.write_text(OLD.replace('"1M"', "2097152 # bytes") + rules)
    bad.write_text(OLD.replace("id = 0", "id = -1"))
    served = Served()
    async with administered(path, settings, {"plan": partial(plan_of, served)}) as (server, _):
        served.config = server.config
        assert (await plan(same, "--admin", path)).stdout == "no difference\n"
        lines = (await plan(other, "--admin", path)).stdout.splitlines()
        assert lines[0].startswith("change LUN 0 of iqn.2026-11.test:disk: size 1048576 -> 2097152")
        assert len(lines) == 1002
        await server.reload(load_tables(tomllib.loads(other.read_text()), tmp_path))
        served.config = server.config
        assert (await plan(other, "--admin", path)).stdout == "no difference\n"  # what is in force, not what began
        result = await plan(bad, "--admin", path)
        assert result.stdout == ""
        assert f"{bad}:7: target[0].lun[0].id" in str(result.exception)
    result = await plan(same, "--admin", path)
    assert f"no target is running at {path}" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "tables: Field required"),
        ({"tables": {}, "base": "/", "more": 1}, "more: Extra inputs"),
        ({"tables": {"portal": 3}, "base": "/"}, "portal"),
        ({"tables": {}, "base": 3}, "base: Input should be"),
    ],
)
async def test_what_is_no_configuration_is_refused(arguments: dict[str, object], words: str, tmp_path: Path) -> None:
    async with administered(tmp_path / "admin", more={"plan": partial(plan_of, Served())}):
        with pytest.raises(UsageError, match=words):
            await asked(tmp_path / "admin", "plan", **arguments)
