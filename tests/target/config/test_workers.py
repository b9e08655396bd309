"""Tests of target.config.workers: the keys, and the faults that only several tables show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iser.errors import UsageError
from target.config import ConfigErrors, load
from target.config.workers import MAX_WORKERS, PortRange, parse_port_range, worker_faults

LUN = 'id = 0\nbackend = "memory"\nsize = "1M"\n'


def faults(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with a file, without its name."""
    file = tmp_path / "target.toml"
    file.write_text(text)
    try:
        load(file)
    except ConfigErrors as errors:
        return [f"{error.place.rpartition(':')[2]} {error.what}" for error in errors.faults]
    return []


def config(top: str, *targets: str, portal: str = "iscsi://127.0.0.1:3260") -> str:
    tables = "".join(f'[[target]]\nname = "iqn.2026-11.test:t{number}"\n{each}' for number, each in enumerate(targets))
    return f'{top}\n[portal.p]\nlisten = "{portal}"\n{tables}'


def memory(key: str = "") -> str:
    return f"{key}\n[[target.lun]]\n{LUN}"


def test_good_ones(tmp_path: Path) -> None:
    assert faults(tmp_path, config("workers = 2", memory("worker = 2"), memory())) == []
    assert faults(tmp_path, config('workers = 2\nworker_ports = "3300-3301"', memory())) == []
    assert faults(tmp_path, config("workers = 2", memory(), portal="iser://127.0.0.1:1")) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (config("workers = 0", memory()), "1 workers: is 0; it has to be at least 1"),
        (config(f"workers = {MAX_WORKERS + 1}", memory()), f"1 workers: is {MAX_WORKERS + 1}; it has to be at most 64"),
        (config("workers = true", memory()), "1 workers: has to be a whole number, not True"),
        (
            config("workers = 2", memory("worker = 3")),
            "6 target[0].worker: is 3, but workers = 2; lower it, or have more workers",
        ),
        (config("", memory("worker = 2")), "6 target[0].worker: is 2, but workers = 1; lower it, or have more workers"),
        (config('worker_ports = "1-2-3"', memory()), "1 worker_ports: '1-2-3' is no range of ports; write it like "),
        (config('worker_ports = "9-8"', memory()), "1 worker_ports: '9-8' has to go up, within 1 to 65535"),
        (
            config('workers = 3\nworker_ports = "3259-3261"', memory()),
            "2 worker_ports: leaves 2 ports, but 3 workers at 1 portals need 3",
        ),
        (
            config("workers = 2", memory() + '[rnic]\nprovider = "verbs"\n', portal="iser://127.0.0.1:1"),
            "12 rnic.provider: 'verbs' listens in one process only; set 'softiwarp', or workers = 1",
        ),
    ],
)
def test_a_line_for_each_fault(text: str, fault: str, tmp_path: Path) -> None:
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(fault)


def test_targets_of_one_store_must_not_be_torn_apart(tmp_path: Path) -> None:
    nbd = '[[target.lun]]\nid = 0\nbackend = "nbd"\nuri = "nbd://host/x"\n'
    one, two = f"worker = 1\n{nbd}", f"worker = 2\n{nbd}"
    assert faults(tmp_path, config("workers = 2", one, two)) == [
        "13 target[1].worker: is 2, but target[0] with the same nbd://host/x has worker 1; give both one"
    ]
    assert faults(tmp_path, config("workers = 2", one, f"\n{nbd}")) == []
    assert faults(tmp_path, config("workers = 2", two, two)) == []


def test_tables_of_wrong_types_are_passed_over(tmp_path: Path) -> None:
    wrongs: list[Any] = [1, "x", [1], [[]], {"a": 1}, [{"lun": 3}], [{"lun": [3]}], [{"lun": [{"path": 3}]}]]
    for wrong in wrongs:
        raw = {"workers": 2, "portal": wrong, "target": wrong, "rnic": wrong, "worker_ports": wrong}
        assert list(worker_faults(raw, tmp_path)) == []
        assert list(worker_faults({"workers": wrong}, tmp_path)) == []


def test_a_range_of_ports() -> None:
    assert parse_port_range("3300-3399") == PortRange(3300, 3399)
    assert str(parse_port_range("1-65535")) == "1-65535"
    for wrong in (None, 3300, "", "3300", "0-1", "1-65536", "-1-2", "1 - 2", "a-b"):
        with pytest.raises(UsageError):
            parse_port_range(wrong)
