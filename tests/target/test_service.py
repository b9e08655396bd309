"""The systemd unit in configs/: what it starts is what there is, and systemd takes it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from target.admin import DEFAULT_SOCKET
from target.cli import app
from target.workers.worker import STOP_TIMEOUT

UNIT = Path(__file__).parents[2] / "configs" / "iser-target.service"


class _Lists(dict[str, str]):
    """A section whose repeated keys are one value with several lines, as they are to systemd."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self and isinstance(value, list):
            value = [*self[key], *value]
        super().__setitem__(key, value)


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(dict_type=_Lists, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # how its documentation says to keep the case
    parser.read(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
    return parser["Service"]


def test_the_command_line_is_one_that_serve_takes(service: configparser.SectionProxy) -> None:
    program, command, *arguments = shlex.split(service["ExecStart"])
    assert (Path(program).name, command) == ("iser-target", "serve")
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]  # it is a group
    parameters = serve.make_context("serve", arguments).params
    assert parameters["admin"] == DEFAULT_SOCKET
    assert service["RuntimeDirectory"] == DEFAULT_SOCKET.parent.name
    assert parameters["config"] == Path("/etc/iser/target.toml")


def test_it_waits_for_ready_and_has_no_privileges(service: configparser.SectionProxy) -> None:
    assert (service["Type"], service["DynamicUser"], service["NoNewPrivileges"]) == ("notify", "yes", "yes")
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert "char-infiniband rw" in service["DeviceAllow"]
    assert "AF_NETLINK" in service["RestrictAddressFamilies"].split()


def test_systemd_waits_longer_than_the_target_for_a_store_that_hangs(service: configparser.SectionProxy) -> None:
    assert int(service["TimeoutStopSec"]) > STOP_TIMEOUT


def test_systemd_takes_it_and_finds_it_safe(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert "/usr/local/bin/iser-target " in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # the tests above have read it
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/usr/local/bin/iser-target", sys.executable), encoding="utf-8")
    for words in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        result = subprocess.run([analyze, *words, str(unit)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "unknown" not in result.stderr.lower(), result.stderr
