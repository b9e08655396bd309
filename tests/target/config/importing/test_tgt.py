"""Tests of target.config.importing.tgt: nobody may do more than tgt let him."""

from __future__ import annotations

import pytest

from iser.errors import UsageError
from target.config.importing.tgt import import_tgt
from target.config.values import Listen
from tests.target.config.importing.files import TGT, parsed


def test_a_file_of_an_administrator() -> None:
    config = parsed(import_tgt(TGT))
    first, second, everybody = config.target
    assert [portal.listen for portal in config.portal.values()] == [
        Listen("0.0.0.0", 3260, "tcp"),
        Listen("0.0.0.0", 3260, "iser"),
    ]
    assert (first.name, first.portals) == ("iqn.2008-09.com.example:server.target1", ("portal0",))
    one, five, two = first.lun
    assert (one.id, one.backend, str(one.path)) == (1, "file", "/srv/images/one.img")
    assert (five.id, five.block_size, five.read_only, five.serial, five.product) == (
        5, 4096, True, "IET-0005", "BIG DISK",
    )  # fmt: skip
    assert (two.id, two.backend, str(two.path), two.read_only) == (2, "block", "/dev/sdd", False)
    assert [(rule.initiator, rule.chap, rule.mutual) for rule in first.acl] == [
        ("iqn.1994-05.com.redhat:alice", ("alice", "bob"), "us"),
        ("iqn.1994-05.com.redhat:bob", ("alice", "bob"), "us"),
    ]
    assert (second.portals, second.lun[0].uri) == (("portal1",), "rbd:pool/image")
    assert [(rule.initiator, rule.allow) for rule in second.acl] == [("*", False)]  # it was for some addresses only
    assert (everybody.acl, str(everybody.lun[0].path)) == ((), "/srv/images/open.img")
    assert config.discovery.chap == ("finder",)


def test_what_has_no_counterpart_is_told() -> None:
    notes = "\n".join(import_tgt(TGT).notes)
    for words in (
        "include /etc/tgt/conf.d/*.conf: not followed",
        "target1: MaxRecvDataSegmentLength 131072".lower(),
        "LUN 5: write-cache off has no counterpart",
        "LUN 5: params element_type=1 has no counterpart",
        "was for the addresses 192.168.1.1, too",
        "was for the addresses 192.168.1.0/24, and rules here are by name; nobody gets in now",
        "LUN 2: not imported: a cd has no counterpart",
        "server.odd: not imported: it has no LUN",
        "server.open LUN 2: not imported: /srv/images/one.img is a LUN already",
        "bs-type glfs has no counterpart",
        "put the secret of CHAP user 'bob' into secrets/bob",
        "LUN 0 of each target was tgt's controller",
    ):
        assert words in notes, words


def test_no_secret_comes_out() -> None:
    imported = import_tgt(TGT)
    for secret in ("alice-secret-12", "bobs-secret-1234", "our-secret-56789", "finders keepers"):
        assert secret not in imported.text + "\n".join(imported.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<target x>\n", "<target x> is not closed"),
        ("</target>\n", "line 1: </target> closes nothing"),
        ("<target x>\n<backing-store y>\n</target>\n", "line 3: </target> closes nothing"),
        ("<target\n", "line 1: '<target' is no block"),
        ("<target x>\nbacking-store y\nincominguser joe\n</target>\n", "incominguser needs a name and a secret"),
    ],
)
def test_what_is_no_such_file(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        import_tgt(text)
