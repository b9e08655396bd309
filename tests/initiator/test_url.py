from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initiator.url import Portal, Url
from iser.errors import UrlError

IQN = "iqn.2026-11.org:disk"


@pytest.mark.parametrize(
    ("text", "portal", "lun", "options"),
    [
        (f"iser://host/{IQN}", Portal("host", 3260), 0, {}),
        (f"iser://host/{IQN}/", Portal("host", 3260), 0, {}),
        (f"iser://10.0.0.1:1234/{IQN}/7", Portal("10.0.0.1", 1234), 7, {}),
        (f"iser://[::1]:5/{IQN}/16383", Portal("::1", 5), 16383, {}),
        (f"iser://[fe80::1%eth0]/{IQN}/0", Portal("fe80::1%eth0"), 0, {}),
        (f"iser://h/{IQN}/0?strategy=bounce", Portal("h"), 0, {"strategy": "bounce"}),
        (f"iser://h/{IQN}/0?no_bounce&queue_depth=8", Portal("h"), 0, {"no_bounce": True, "queue_depth": 8}),
        (f"iser://h/{IQN}?crc=on&segment=mss", Portal("h"), 0, {"crc": True, "segment": "mss"}),
        (f"iser://h/{IQN}?max_transfer=512K&timeout=1.5", Portal("h"), 0, {"max_transfer": 524288, "timeout": 1.5}),
        (f"iser://h/{IQN}?crc=auto&segment=9000", Portal("h"), 0, {"crc": "auto", "segment": 9000}),
        (f"iser://h/{IQN}?initiator_name=iqn.2026-11.a:b", Portal("h"), 0, {"initiator_name": "iqn.2026-11.a:b"}),
    ],
)
def test_urls_are_taken_apart(text: str, portal: Portal, lun: int, options: dict[str, Any]) -> None:
    url = Url.parse(text)
    assert (url.portal, url.target, url.lun, dict(url.options)) == (portal, IQN, lun, options)


def test_user_and_password() -> None:
    url = Url.parse(f"iser://alice%se%40cret@host/{IQN}/1")
    assert (url.user, url.password, url.portal.host) == ("alice", "se@cret", "host")
    assert "cret" not in repr(url)
    assert "cret" not in str(url)
    assert Url.parse(f"iser://alice@host/{IQN}").password == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"http://host/{IQN}/0", "begins with iser://"),
        ("host", "begins with iser://"),
        ("iser://host", "target name is missing"),
        ("iser://host/", "target name is missing"),
        (f"iser:///{IQN}/0", "no name or address"),
        (f"iser://ho st/{IQN}/0", "no name or address"),
        (f"iser://host:0/{IQN}/0", "port '0'"),
        (f"iser://host:65536/{IQN}/0", "port '65536'"),
        (f"iser://host:/{IQN}/0", "port ''"),
        (f"iser://host:http/{IQN}/0", "port 'http'"),
        (f"iser://::1/{IQN}/0", "stands in brackets"),
        (f"iser://[::1/{IQN}/0", "in brackets is malformed"),
        (f"iser://[nonsense]/{IQN}/0", "in brackets is malformed"),
        (f"iser://[::1]3260/{IQN}/0", "after ']'"),
        (f"iser://@host/{IQN}/0", "user before '@' is empty"),
        ("iser://host/disk/0", "'disk' is no iSCSI name"),
        (f"iser://host/{IQN}/zero", "LUN 'zero'"),
        (f"iser://host/{IQN}/16384", "LUN '16384'"),
        (f"iser://host/{IQN}/1/2", "LUN '1/2'"),
        (f"iser://host/{IQN}/0?colour=red", "choose among strategy, no_bounce"),
        (f"iser://host/{IQN}/0?strategy=magic", "'magic' does not exist"),
        (f"iser://host/{IQN}/0?queue_depth=0", "queue_depth 0"),
        (f"iser://host/{IQN}/0?queue_depth=many", "option queue_depth: .* no number"),
        (f"iser://host/{IQN}/0?depth=8", "0\\?depth=8': option 'depth' does not exist"),
        (f"iser://host/{IQN}/0?timeout=soon", "no number of seconds"),
        (f"iser://host/{IQN}/0?crc=perhaps", "neither yes nor no"),
        (f"iser://host/{IQN}/0?crc=on&crc=off", "stands twice"),
        (f"iser://host/{IQN}/0?provider=magic", "provider 'magic'"),
        (f"iser://host/{IQN}/0?initiator_name=me", "initiator_name 'me'"),
    ],
)
def test_a_bad_url_gets_one_sentence_that_names_the_part(text: str, words: str) -> None:
    with pytest.raises(UrlError, match=words.replace("[", r"\[").replace("(", r"\(")) as caught:
        Url.parse(text)
    assert "\n" not in str(caught.value)


def test_no_message_shows_the_password() -> None:
    with pytest.raises(UrlError) as caught:
        Url.parse("iser://alice%secret@host/disk")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("host", Portal("host", 3260)),
        ("host:1", Portal("host", 1)),
        ("iser://host:1", Portal("host", 1)),
        ("iser://host:1/", Portal("host", 1)),
        ("[::1]", Portal("::1", 3260)),
        ("[::1]:2", Portal("::1", 2)),
    ],
)
def test_portals(text: str, portal: Portal) -> None:
    assert Portal.parse(text) == portal
    assert Portal.parse(str(portal)) == portal


@pytest.mark.parametrize("text", ["", "http://host", "host:x", "::1", "a/b"])
def test_bad_portals(text: str) -> None:
    with pytest.raises(UrlError):
        Portal.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for candidate in (text, f"iser://{text}", f"iser://h/{IQN}{text}", f"iser://h/{IQN}/0?{text}"):
        try:
            url = Url.parse(candidate)
        except UrlError:
            continue
        assert Url.parse(str(url)).target == url.target
