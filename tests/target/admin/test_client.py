"""Tests of target.admin.client: what somebody reads who asks a target that is not there."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from iser.errors import ConnectionFailed, ConnectionLost, IserError
from target.admin.client import ask


def test_no_target_is_one_sentence_that_says_how_to_have_one(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match=f"no target is running at {path}; start one with 'serve --admin"):
            ask(path, "status")
        with socket.socket(socket.AF_UNIX) as left:  # by a target that died
            left.close() if path.exists() else left.bind(str(path))


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="no target can be asked"):
        ask(tmp_path / ("x" * 200), "status")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"", ConnectionLost, "is no target of ours"),
        (b"HTTP/1.1 400\r\n", ConnectionLost, "is no target of ours"),
        (b"[]\n", ConnectionLost, "is no target of ours"),
        (b'{"ok": false}\n', ConnectionLost, "is no target of ours"),
        (b'{"ok": false, "error": "the disk is on fire", "usage": false}\n', IserError, "the disk is on fire"),
    ],
)
def test_answers_that_are_not_good(answer: bytes, kind: type[IserError], words: str, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(answer)
            client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(kind, match=words):
            ask(path, "status")
        thread.join()
