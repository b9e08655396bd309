"""Tests of target.notify."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from target.notify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_gets_one_datagram(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if abstract else path)
        notify("READY=1")
        assert manager.recv(99) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "nonsense", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
