"""Tests of target.config.importing.lio: nobody may do more than LIO let him."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from target.config.importing.lio import import_lio
from target.config.values import Listen
from tests.target.config.importing.files import LIO, parsed


def changed(target: int = 0, **group: Any) -> dict[str, Any]:
    """The file with other keys of a target's first portal group; attributes are added to those that it has."""
    data = copy.deepcopy(LIO)
    first = data["targets"][target]["tpgs"][0]
    first["attributes"] |= group.pop("attributes", {})
    first |= group
    return data


def test_a_file_of_targetcli() -> None:
    config = parsed(import_lio(LIO))
    disks, demo = config.target
    assert [portal.listen for portal in config.portal.values()] == [
        Listen("0.0.0.0", 3260, "tcp"),
        Listen("2001:db8::1", 3261, "iser"),
    ]
    assert (disks.name, disks.alias) == ("iqn.2003-01.org.linux-iscsi.host.x8664:sn.abc", "The disks")
    assert disks.portals == ("portal0", "portal1")
    zero, one, two = disks.lun
    assert (zero.backend, str(zero.path), zero.size) == ("file", "/srv/disk0.img", 1 << 30)
    assert zero.serial == "0b1f6b7e-7a3b-4a0e-9a52-0c7f31f2e6d1"
    assert (one.backend, str(one.path), one.size, one.read_only) == ("block", "/dev/vg0/data", None, True)
    assert (two.backend, two.size) == ("memory", 256 << 20)
    alice, bob = disks.acl
    assert (alice.initiator, alice.allow, alice.chap, alice.mutual) == (
        "iqn.1994-05.com.redhat:alice", True, ("alice",), "us",
    )  # fmt: skip
    assert alice.luns == {0: 2, 1: 1}  # LUN 5 was for reading only, and is left out
    assert (bob.initiator, bob.allow) == ("iqn.1994-05.com.redhat:bob", False)  # a proof was wanted, there was no user
    assert (demo.portals, demo.lun[0].read_only) == (("portal0",), True)
    assert [(rule.initiator, rule.allow) for rule in demo.acl] == [("*", True)]
    assert config.discovery.chap == ("finder",)
    limits = config.limits
    assert (limits.first_burst_length, limits.initial_r2t, limits.immediate_data) == (65536, False, True)
    assert (limits.queue_depth, limits.login_timeout) == (64, 15)


def test_what_has_no_counterpart_is_told() -> None:
    notes = "\n".join(import_lio(LIO).notes)
    for words in (
        "LUN 3: not imported: a pscsi backstore has no counterpart",
        "tpg2: not imported: it is disabled",
        "target naa.5001405f: not imported: its fabric is vhost",
        "LUN 5 is not shown: it may only be read",
        "redhat:bob: LIO wants a proof but has no user for it",
        "LUN 0: write_back has no counterpart",
        "LUN 2: what the RAM disk holds does not come with it",
        "DataDigest cannot be made a must",
        "first_burst_length is 8192 there and 65536 here",
        "LIO also serves plain iSCSI at iser://[2001:db8::1]:3261",
        "put the secret of CHAP user 'alice' into secrets/alice",
        "so its LUNs are read_only",
        "sn.demo tpg1 LUN 1: not imported: /backstores/ramdisk/ram is a LUN already",
    ):
        assert words in notes, words


def test_no_secret_comes_out() -> None:
    imported = import_lio(LIO)
    for secret in ("alice's own secret", "the target's secret", "finders keepers"):
        assert secret not in imported.text + "\n".join(imported.notes)


def test_who_had_no_acl_does_not_get_in() -> None:
    config = parsed(import_lio(changed(node_acls=[])))
    assert [(rule.initiator, rule.allow) for rule in config.target[0].acl] == [("*", False)]


def test_demo_mode_without_a_user_to_prove_to_be_lets_nobody_in() -> None:
    attributes = {"authentication": 1, "demo_mode_write_protect": 0}
    config = parsed(import_lio(changed(1, attributes=attributes)))
    assert [(rule.initiator, rule.allow) for rule in config.target[1].acl] == [("*", False)]
    config = parsed(import_lio(changed(1, attributes=attributes, chap_userid="u", chap_password="p" * 12)))
    assert [(rule.allow, rule.chap) for rule in config.target[1].acl] == [(True, ("u",))]
    assert not config.target[1].lun[0].read_only


def test_demo_mode_for_reading_beside_acls_is_left_out() -> None:
    imported = import_lio(changed(attributes={"generate_node_acls": 1}))
    assert [rule.initiator[-5:] for rule in parsed(imported).target[0].acl] == ["alice", "t:bob"]
    assert "nobody else gets in" in "\n".join(imported.notes)


def test_two_secrets_of_one_user_are_two_tables_and_bad_ones_are_told() -> None:
    acls = [
        {"node_wwn": f"iqn.x:{n}", "chap_userid": "joe space", "chap_password": "p" * (n + 11),
         "mapped_luns": [{"index": 0, "tpg_lun": 0}]}
        for n in range(2)
    ]  # fmt: skip
    imported = import_lio(changed(node_acls=acls))
    config = parsed(imported)
    assert [rule.chap for rule in config.target[0].acl] == [("joe-space",), ("joe-space-2",)]
    assert config.chap["joe-space-2"].user == "joe space"
    assert "not of 12 to 255 bytes" in "\n".join(imported.notes)


@pytest.mark.parametrize("data", [{}, {"targets": 5, "storage_objects": {}}, {"targets": [{"wwn": "x", "tpgs": [7]}]}])
def test_odd_shapes_are_passed_over(data: dict[str, Any]) -> None:
    assert "[[target]]" not in import_lio(data).text


def test_strings_come_through_toml() -> None:
    alias = 'a "b" \\ \t \x7f ä'
    config = parsed(import_lio(changed(parameters={"TargetAlias": alias})))
    assert config.target[0].alias == alias
