"""Tests of target.config.importing.document: names, notes, and TOML that reads as what was gathered."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from target.config.importing.document import Document

values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
tables = st.dictionaries(st.text(max_size=5), values, max_size=4)


@given(st.dictionaries(st.text(max_size=5), tables, max_size=3), tables, tables)
def test_the_text_reads_as_what_was_gathered(
    portals: dict[str, dict[str, Any]], lun: dict[str, Any], discovery: dict[str, Any]
) -> None:
    document = Document(portal=portals, discovery=discovery, target=[{"name": "iqn.x", "lun": [lun]}])
    found = tomllib.loads(document.result("a file").text)
    assert found.pop("target") == [{"name": "iqn.x", "lun": [lun]}]
    assert found == ({"portal": portals} if portals else {}) | ({"discovery": discovery} if discovery else {})


def test_a_store_is_of_one_lun_only() -> None:
    document = Document()
    assert document.claim("/dev/sdb", "here")
    assert not document.claim("/dev/sdb", "there")
    assert document.notes == ["there: not imported: /dev/sdb is a LUN already, and has to be one only"]


def test_a_portal_is_made_once_and_keeps_its_group() -> None:
    document = Document()
    assert document.add_portal("iscsi://10.0.0.1:3260", 1, "here") == "portal0"
    assert document.add_portal("iscsi://10.0.0.1:3260", 2, "there") == "portal0"
    assert document.add_portal("iscsi://10.0.0.1:99999", 1, "nowhere") is None
    assert document.portal == {"portal0": {"listen": "iscsi://10.0.0.1:3260"}}
    assert document.notes[0] == "there: portal group 2 is 1 here: a portal has one group"
    assert document.notes[1].startswith("nowhere: not imported: ")


def test_secrets_stay_behind_and_two_of_one_name_are_two_users() -> None:
    document = Document()
    assert document.add_user("a b", "a secret of one", "x") == "a-b"
    assert document.add_user("a b", "a secret of one", "x") == "a-b"
    assert document.add_user("a b", "short", "x") == "a-b-2"
    result = document.result("a file")
    assert "secret of one" not in result.text + str(result.notes)
    assert tomllib.loads(result.text)["chap"]["a-b-2"] == {"user": "a b", "secret_file": "secrets/a-b-2"}
    assert "x: the secret of 'a b' has to be changed: it is not of 12 to 255 bytes" in result.notes
    assert len(result.notes) == 3
