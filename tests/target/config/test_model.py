"""Configurations: the ones we ship, each kind of fault with its line, and the command line's flags."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import UsageError
from target.backends.fault import Action, Operation
from target.config import ConfigErrors, config_from_flags, load
from target.config.access import build_policy
from target.config.model import load_tables
from target.config.values import Listen

CONFIGS = Path(__file__).parents[3] / "configs"

GOOD = """\
[portal.main]
listen = "iser://127.0.0.1:3260"
[limits]
queue_depth = 64
[rnic]
crc = "auto"
[[target]]
name = "iqn.2026-11.demo:disk"
[[target.lun]]
id = 0
backend = "memory"
size = "1M"
[[target.lun]]
id = 1
backend = "file"
path = "disk.img"
size = "1M"
"""


def faults(path: Path, text: str) -> list[str]:
    """``line: what`` of every fault of a configuration file with ``text``."""
    file = path / "target.toml"
    file.write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        load(file)
    lines = str(caught.value).split("\n")
    assert lines == [f"{fault.place}: {fault.what}" for fault in caught.value.faults]
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, whom no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_ramdisk_toml() -> None:
    config = load(CONFIGS / "ramdisk.toml")
    assert config.portal["loopback"].listen == Listen("127.0.0.1", 3260)
    (target,) = config.target
    (lun,) = target.lun
    assert (target.name, target.alias) == ("iqn.2026-11.demo:ramdisk", "RAM disk")
    assert (lun.id, lun.backend, lun.size, lun.block_size, lun.read_only) == (0, "memory", 256 << 20, 512, False)
    assert (config.limits.queue_depth, config.limits.max_sessions) == (64, 64)
    assert (config.limits.first_burst_length, config.limits.max_burst_length) == (65536, 262144)
    assert (config.limits.immediate_data, config.limits.initial_r2t) == (True, True)
    assert (config.rnic.provider, config.rnic.crc, config.rnic.segment) == ("auto", None, "auto")


def test_file_toml() -> None:
    config = load(CONFIGS / "file.toml")
    first, second = config.target[0].lun
    assert first.path == Path("/var/tmp/iser-disk0.img")
    assert (first.serial, first.product, first.size) == ("ISER-FILE-0", "FILE DISK", 1 << 30)
    assert (second.block_size, second.threads) == (4096, 16)
    assert (config.limits.queue_depth, config.limits.max_transfer) == (128, 4 << 20)


def test_two_portals_toml() -> None:
    config = load(CONFIGS / "two-portals.toml")
    assert [portal.listen for portal in config.portal.values()] == [Listen("127.0.0.1", 3260), Listen("::1", 3260)]
    assert config.target[0].lun[1].read_only
    error, delay = config.target[1].lun[0].faults
    assert (error.on, error.action, error.nth, error.count) == (Operation.WRITE, Action.ERROR, 3, 1)
    assert (delay.on, delay.action, delay.count, delay.seconds) == (Operation.READ, Action.DELAY, 5, 0.05)
    assert not config.limits.immediate_data


def test_backends_toml() -> None:
    luns = load(CONFIGS / "backends.toml").target[0].lun
    assert [lun.backend for lun in luns] == ["memory", "file", "block", "nbd", "rbd"]
    assert [lun.thin for lun in luns] == [None, True, None, None, None]
    assert (luns[0].removable, luns[1].physical_block_size, luns[4].read_only) == (True, 4096, True)
    assert (luns[3].uri, luns[4].uri) == ("nbd://127.0.0.1:10809/disk", "rbd:pool/image:id=admin")


def test_chap_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(CONFIGS / "chap.toml")
    monkeypatch.setenv("ALICE_SECRET", "alice's own secret")
    monkeypatch.setenv("TARGET_SECRET", "the target's secret")
    (rule,) = build_policy(config).targets["iqn.2026-11.demo:guarded"]
    assert rule.mutual
    assert ([user.name for user in rule.users], rule.mutual.name) == (["alice"], "target")
    assert [portal.listen.transport for portal in config.portal.values()] == ["tcp", "iser"]


def test_shipped_workers() -> None:
    config = load(CONFIGS / "workers.toml")
    assert (config.workers, config.worker_ports) == (2, (3300, 3303))
    assert [target.worker for target in config.target] == [None, 2]


def test_every_shipped_configuration_is_tested_here() -> None:
    files = (file.name for file in CONFIGS.glob("*.toml") if not file.name.startswith("bench-"))  # the initiator's
    assert sorted(files) == [
        "backends.toml",
        "chap.toml",
        "file.toml",
        "ramdisk.toml",
        "two-portals.toml",
        "workers.toml",
    ]


def test_relative_paths_start_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target.toml").write_text(GOOD)
    assert load(tmp_path / "target.toml").target[0].lun[1].path == tmp_path / "disk.img"
    monkeypatch.chdir(tmp_path)
    assert load("target.toml").target[0].lun[1].path == tmp_path / "disk.img"
    assert not (tmp_path / "disk.img").exists()  # looking at a configuration makes nothing


def test_values_of_every_kind(tmp_path: Path) -> None:
    text = GOOD.replace('crc = "auto"', 'crc = false\nsegment = "mss"').replace('size = "1M"', "size = 1048576")
    (tmp_path / "target.toml").write_text(text)
    config = load(tmp_path / "target.toml")
    assert (config.rnic.crc, config.rnic.segment) == (False, "mss")
    assert config.target[0].lun[0].size == 1 << 20


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"iser://127.0.0.1:3260"', '"iser://h:65536"', "2: portal.main.listen: port '65536'"),
        ('"iser://127.0.0.1:3260"', '"h:1"', "2: portal.main.listen: 'h:1' has to start with 'iser://'"),
        ("listen =", "lisen =", "1: portal.main.listen: is missing; add listen = 'iser://HOST:PORT'"),
        ("listen =", "lisen =", "2: portal.main.lisen: is not a known key; did you mean 'listen'?"),
        ("[limits]", "[limit]", "3: limit: is not a known key; did you mean 'limits'?"),
        ("queue_depth = 64", "zzz = 1", "4: limits.zzz: is not a known key; known are queue_depth, max_sessions,"),
        ("queue_depth = 64", "queue_depth = 0", "4: limits.queue_depth: is 0; it has to be at least 1"),
        ("queue_depth = 64", "queue_depth = 9999", "4: limits.queue_depth: is 9999; it has to be at most 1024"),
        ("queue_depth = 64", "busy_poll_us = -1", "4: limits.busy_poll_us: is -1; it has to be at least 0"),
        ("queue_depth = 64", "busy_poll_us = 5000", "4: limits.busy_poll_us: is 5000; it has to be at most 1000"),
        ("queue_depth = 64", "queue_depth = '64'", "4: limits.queue_depth: has to be a whole number, not '64'"),
        ("queue_depth = 64", "queue_depth = 6.5", "4: limits.queue_depth: has to be a whole number, not 6.5"),
        ("queue_depth = 64", "immediate_data = 1", "4: limits.immediate_data: has to be true or false, not 1"),
        ("queue_depth = 64", "max_transfer = '1Z'", "4: limits.max_transfer: '1Z' is not a size; write a number"),
        ("queue_depth = 64", "max_transfer = 512", "4: limits.max_transfer: is 512; it has to be at least 4096"),
        (
            "queue_depth = 64",
            "first_burst_length = '512K'",
            "4: limits.first_burst_length: first_burst_length 524288 is more than max_burst_length 262144",
        ),
        (
            "queue_depth = 64",
            "max_burst_length = 1024",
            "4: limits.max_burst_length: first_burst_length 65536 is more than max_burst_length 1024",
        ),
        ('crc = "auto"', 'crc = "yes"', "6: rnic.crc: is 'yes'; it has to be true, false or 'auto'"),
        ('crc = "auto"', "segment = 0", "6: rnic.segment: is 0; it has to be 'auto', 'mss' or 128 to 65535 bytes"),
        ('crc = "auto"', 'provider = "mlx"', "6: rnic.provider: is 'mlx'; it has to be 'auto', 'verbs' or 'softiwarp'"),
        ("iqn.2026-11.demo:disk", "disk", "8: target[0].name: 'disk' is not an iSCSI name; write 'iqn."),
        ("iqn.2026-11.demo:disk", "iqn.2026-11.Demo:x", "8: target[0].name: the iSCSI name 'iqn.2026-11.Demo:x' has"),
        ('name = "iqn.2026-11.demo:disk"', "", "7: target[0].name: is missing; add name ="),
        ("id = 0\n", "", "9: target[0].lun[0].id: is missing; add id = 0"),
        (
            "id = 1\n",
            "id = 0\n",
            "14: target[0].lun[1].id: 0 is the id of two LUNs of this target, first of target[0].",
        ),
        ("id = 1\n", "id = 16384\n", "14: target[0].lun[1].id: is 16384; it has to be at most 16383"),
        (
            'backend = "memory"',
            'backend = "ram"',
            "11: target[0].lun[0].backend: is 'ram'; it has to be 'memory', 'file', 'block', 'nbd' or 'rbd'",
        ),
        ('backend = "memory"\n', "", "9: target[0].lun[0].backend: is missing; add backend ="),
        ('memory"\nsize = "1M"\n', 'memory"\n', "9: target[0].lun[0].size: is missing; a memory LUN needs one"),
        ('memory"\nsize = "1M"', 'memory"\nsize = 1000', "12: target[0].lun[0].size: 1000 bytes are not a multiple of"),
        ('memory"\nsize = "1M"', 'memory"\nsize = 0', "12: target[0].lun[0].size: 0 bytes are not a multiple of"),
        (
            "id = 0\n",
            "id = 0\nblock_size = 1024\n",
            "11: target[0].lun[0].block_size: is 1024; it has to be 512 or 4096",
        ),
        ("id = 0\n", 'id = 0\npath = "x"\n', "11: target[0].lun[0].path: does not belong to a memory LUN; remove it"),
        ("id = 0\n", 'id = 0\nuri = "x"\n', "11: target[0].lun[0].uri: does not belong to a memory LUN; remove it"),
        ('backend = "memory"', 'backend = "nbd"', "9: target[0].lun[0].uri: is missing; an nbd LUN needs one, such as"),
        (
            'backend = "memory"',
            'backend = "rbd"\nuri = "disk"',
            "12: target[0].lun[0].uri: 'disk' is no image; write 'rbd:POOL/IMAGE'",
        ),
        ('backend = "memory"', 'backend = "block"', "9: target[0].lun[0].path: is missing; a block LUN needs one"),
        (
            "id = 0\n",
            "id = 0\nblock_size = 4096\nphysical_block_size = 512\n",
            "12: target[0].lun[0].physical_block_size: 512 is less than block_size 4096; leave it out",
        ),
        ("id = 0\n", "id = 0\nthin = 1\n", "11: target[0].lun[0].thin: has to be true or false, not 1"),
        ("id = 0\n", 'id = 0\nread_only = "no"\n', "11: target[0].lun[0].read_only: has to be true or false, not 'no'"),
        ("id = 0\n", 'id = 0\nserial = "ä"\n', "11: target[0].lun[0].serial: 'ä' has letters that are not allowed"),
        ("id = 0\n", 'id = 0\nserial = ""\n', "11: target[0].lun[0].serial: is empty; give at least 1 letter"),
        ("id = 0\n", f'id = 0\nproduct = "{"x" * 17}"\n', f"11: target[0].lun[0].product: '{'x' * 17}' is too long"),
        ("id = 0\n", "id = 0\nfaults = 1\n", "11: target[0].lun[0].faults: has to be a list, not 1"),
        (
            "id = 0\n",
            'id = 0\nfaults = [\n  { on = "raed", action = "error" },\n]\n',
            "11: target[0].lun[0].faults[0].on: is 'raed'; it has to be 'read', 'write' or 'flush'",
        ),
        ("id = 0\n", "id.a = 0\n", "10: target[0].lun[0].id: has to be a whole number, not {'a': 0}"),
        ('backend = "memory"', "backend = {}", "11: target[0].lun[0].backend: is {}; it has to be 'memory', 'file'"),
        ('path = "disk.img"\n', "", "13: target[0].lun[1].path: is missing; a file LUN needs one"),
        ('path = "disk.img"', "path = 1", "16: target[0].lun[1].path: 1 is not a path; write a text in quotes"),
        ("[[target]]", "[[target]]\nlun = 5", "10: not TOML: "),
        ("[limits]", "limits = 3\n[other]", "3: portal.main.limits: is not a known key"),
        ("queue_depth = 64", "queue_depth = ", "4: not TOML: "),
        ("[limits]", "[portal.main]", "3: not TOML: "),
    ],
)
def test_each_kind_of_fault_has_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = faults(tmp_path, GOOD.replace(old, new, 1))
    assert any(line.startswith(expected) for line in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: portal: is missing; add [portal.main]", "1: target: is missing; add [[target]]"]),
        ("portal = 1\ntarget = 2", ["1: portal: has to be a table, not 1", "2: target: has to be a list, not 2"]),
        ("target = []\n[portal]", ["1: target: is empty; give at least 1", "2: portal: is empty; give at least 1"]),
        (
            "[[target]]\n[portal]\nx = 5",
            ["1: target[0].name: is", "1: target[0].lun: is missing", "3: portal.x: has to be a table"],
        ),
    ],
)
def test_files_without_the_basics(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = faults(tmp_path, text)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_every_fault_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("3260", "99999").replace("queue_depth = 64", "queue_deph = 64").replace("id = 1", "id = 0")
    text = text.replace('"auto"', "3").replace("demo:disk", "demo disk").replace('"memory"', '"memry"')
    assert [line.split(":")[0] for line in faults(tmp_path, text)] == ["2", "4", "6", "8", "11", "14"]


def test_duplicates(tmp_path: Path) -> None:
    portal = '[portal.other]\nlisten = "iser://127.0.0.1"\n'
    target = GOOD[GOOD.index("[[target]]") :]
    assert faults(tmp_path, GOOD + portal) == [
        "19: portal.other.listen: iser://127.0.0.1:3260 is taken by portal main; give another port"
    ]
    assert faults(tmp_path, GOOD + target) == [
        "19: target[1].name: 'iqn.2026-11.demo:disk' is the name of two targets, first of target[0]; change one",
        f"27: target[1].lun[1].path: {tmp_path}/disk.img already is that of target[0].lun[1]; give each LUN "
        "its own file",
    ]
    serial = GOOD.replace("id = 0\n", 'id = 0\nserial = "S"\n').replace("id = 1\n", 'id = 1\nserial = "S"\n')
    assert faults(tmp_path, serial) == [
        "16: target[0].lun[1].serial: 'S' is the serial of two LUNs, first of target[0].lun[0]; change one"
    ]


def test_two_portals_on_any_free_port_are_no_duplicates(tmp_path: Path) -> None:
    text = GOOD.replace("3260", "0") + '[portal.b]\nlisten = "iser://127.0.0.1:0"\n'
    (tmp_path / "target.toml").write_text(text)
    assert len(load(tmp_path / "target.toml").portal) == 2


def lun_fault(tmp_path: Path, lun: str) -> str:
    """The one fault of a configuration whose file LUN has these keys, without place and file."""
    text = GOOD[: GOOD.index("path =")] + lun
    (found,) = faults(tmp_path, text)
    assert found.startswith(f"16: target[0].lun[1].path: {tmp_path}/")
    return found.removeprefix(f"16: target[0].lun[1].path: {tmp_path}/")


def test_files_that_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(1024))
    (tmp_path / "odd").write_bytes(bytes(1000))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "dir").mkdir()
    expected = {
        'path = "disk.img"\n': "disk.img does not exist; add a size to have it made",
        'path = "disk.img"\nread_only = true\nsize = 512\n': "disk.img does not exist; a read-only LUN needs a file",
        'path = "no/disk.img"\nsize = 512\n': f"no/disk.img cannot be: there is no directory {tmp_path}/no; make it",
        'path = "short"\nsize = 2048\n': "short has 1024 bytes, less than size 2048; lower the size or",
        'path = "odd"\n': "odd has 1000 bytes, not a multiple of block_size 512; add a size",
        'path = "empty"\n': "empty is empty; add a size to have it enlarged",
        'path = "dir"\n': "dir is neither a file nor a block device",
        'path = "short/x"\nsize = 512\n': "short/x cannot be reached: Not a directory",
    }
    for lun, words in expected.items():
        assert lun_fault(tmp_path, lun).startswith(words)


def test_permissions() -> None:
    with tempfile.TemporaryDirectory() as name:
        tmp_path = Path(name)
        tmp_path.chmod(0o777)
        (tmp_path / "locked").mkdir(mode=0o555)
        (tmp_path / "locked").chmod(0o555)
        for mode in (0o444, 0o000):
            (tmp_path / f"{mode:o}").write_bytes(bytes(512))
            (tmp_path / f"{mode:o}").chmod(mode)
        with unprivileged():
            assert lun_fault(tmp_path, 'path = "444"\n').startswith("444 may not be written; change its permissions or")
            assert lun_fault(tmp_path, 'path = "0"\nread_only = true\n') == "0 may not be read"
            assert lun_fault(tmp_path, 'path = "locked/x"\nsize = 512\n').startswith("locked/x may not be made in")
            (tmp_path / "target.toml").write_text(
                GOOD.replace("disk.img", "444").replace('"1M"\n', "512\nread_only = true\n")
            )
            assert load(tmp_path / "target.toml").target[0].lun[1].read_only


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigErrors, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "binary").write_bytes(b"a = 1\n\xff\xfe")
    with pytest.raises(ConfigErrors, match="binary: is not UTF-8 text, from byte 6 on"):
        load(tmp_path / "binary")
    (tmp_path / "open").write_text('a = 1\nb = """\nc')
    with pytest.raises(ConfigErrors, match="open:3: not TOML: "):
        load(tmp_path / "open")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.text(alphabet="[]{}=.\"'#\n\\ a1,", max_size=4))
def test_a_damaged_file_loads_or_is_refused_line_by_line(start: int, end: int, patch: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "target.toml"
        file.write_text(GOOD[: min(start, end)] + patch + GOOD[max(start, end) :])
        try:
            load(file)
        except ConfigErrors as error:
            assert all(fault.place.startswith(str(file)) for fault in error.faults)  # noqa: PT017 - either is right


def test_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, listen = "iqn.2026-11.demo:disk", ["iser://127.0.0.1:3260", "iser://[::1]:0"]
    config = config_from_flags(name=name, listen=listen, memory="256M", file="disk.img", size="1M")
    assert [str(portal.listen) for portal in config.portal.values()] == listen
    memory, file = config.target[0].lun
    assert (memory.id, memory.backend, memory.size) == (0, "memory", 256 << 20)
    assert (file.id, file.path, file.size) == (1, tmp_path / "disk.img", 1 << 20)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"memory": "1X"}, "--memory: '1X' is not a size"),
        ({"memory": "1000"}, "--memory: 1000 bytes are not a multiple"),
        ({"file": "no/such"}, "--file: "),
        ({"file": "disk.img", "size": "x"}, "--size: 'x' is not a size"),
        ({}, "--memory: is missing; give --memory SIZE or --file PATH"),
        ({"memory": "1M", "listen": []}, "--listen: is missing; give at least one"),
        ({"memory": "1M", "listen": ["x"]}, "--listen: 'x' has to start with"),
        ({"memory": "1M", "name": "x"}, "--name: 'x' is not an iSCSI name"),
    ],
)
def test_faults_of_flags_name_the_flag(
    flags: dict[str, object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given_flags = {"name": "iqn.2026-11.demo:disk", "listen": ["iser://127.0.0.1:3260"], **flags}
    with pytest.raises(UsageError) as caught:
        config_from_flags(**given_flags)  # type: ignore[arg-type]  # one dict of flags of several types
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_the_admin_socket_and_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(GOOD + '\n[admin]\nsocket = "run/admin.sock"\nmetrics = "[::1]:9260"\n')
    admin = load(file).admin
    assert (admin.socket, admin.metrics) == (tmp_path / "run/admin.sock", ("::1", 9260))
    file.write_text(GOOD + '\n[admin]\nmetrics = "9260"\n')
    with pytest.raises(ConfigErrors, match=r"admin\.metrics: '9260' is no address; write 'HOST:PORT'"):
        load(file)


def test_the_portal_groups_of_a_target() -> None:
    portals = {name: {"listen": f"iser://h:{port}", "group": group} for name, port, group in (("a", 1, 7), ("b", 2, 3))}
    portals["c"] = {"listen": "iscsi://h:3", "group": 7}
    lun = {"id": 0, "backend": "memory", "size": "1M"}
    everywhere, some = (
        {"name": f"iqn.2026-11.test:{name}", "portals": where, "lun": [lun]}
        for name, where in (("e", []), ("s", ["a", "c"]))
    )
    config = load_tables({"portal": portals, "target": [everywhere, some]}, Path("/"))
    assert [config.groups(target) for target in config.target] == [(3, 7), (7,)]
