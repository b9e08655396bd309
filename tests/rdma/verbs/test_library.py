"""Loading pyverbs, and what is said when it or something under it is missing."""

from __future__ import annotations

import logging
import os
import resource
import sys
import types
from pathlib import Path

import pytest

from iser.errors import ResourceError
from iser.rdma.verbs.library import device_error, event_descriptors, load_pyverbs, memlock_error, memlock_limit

_FAKE: dict[str, str] = {
    "device": "class Context: ...\ndef get_device_list(): return []\n",
    "pd": "class PD: ...\n",
    "cq": "class CQ: ...\nclass CompChannel: ...\n",
    "mr": "class MR: ...\n",
    "qp": "class QP: ...\nclass QPAttr: ...\nclass QPCap: ...\nclass QPInitAttr: ...\n"
    "class QPInitAttrEx: ...\nclass QPEx: ...\n",
    "wr": "class SGE: ...\nclass SendWR: ...\nclass RecvWR: ...\n",
    "addr": "class AHAttr: ...\nclass GlobalRoute: ...\nclass GID: ...\n",
    "pyverbs_error": "class PyverbsError(Exception): ...\nclass PyverbsRDMAError(PyverbsError): ...\n",
}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    load_pyverbs.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyverbs"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("clean")
def test_loading_leaves_the_root_logger_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pyverbs"
    package.mkdir()
    (package / "__init__.py").write_text("import logging\nlogging.basicConfig(level=logging.INFO, force=True)\n")
    for name, text in _FAKE.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    root = logging.getLogger()
    before = list(root.handlers), root.level
    assert isinstance(load_pyverbs().Context, type)
    assert (root.handlers, root.level) == before
    load_pyverbs.cache_clear()


@pytest.mark.usefixtures("clean")
def test_a_missing_pyverbs_is_one_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyverbs", types.ModuleType("pyverbs"))
    with pytest.raises(ResourceError, match=r"install python3-pyverbs .* or choose provider=softiwarp") as caught:
        load_pyverbs()
    assert "\n" not in str(caught.value)


def test_out_of_memory_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8 << 20, 8 << 20))
    assert memlock_limit() == 8 << 20
    problem = OSError(12, "Cannot allocate memory")
    assert "RLIMIT_MEMLOCK of 8192 KiB; raise it" in str(device_error("registering", problem))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert memlock_limit() is None
    assert "lower queue_depth" in str(memlock_error("registering"))


def test_only_device_events_are_found_among_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert event_descriptors() == set()
    links = {"0": "/dev/null", "5": "anon_inode:[infinibandevent]", "6": "anon_inode:[eventpoll]"}
    monkeypatch.setattr(os, "listdir", lambda path: [*links, "9"])

    def readlink(path: str) -> str:
        try:
            return links[path.rpartition("/")[2]]
        except KeyError:
            raise FileNotFoundError from None

    monkeypatch.setattr(os, "readlink", readlink)
    assert event_descriptors() == {5}
