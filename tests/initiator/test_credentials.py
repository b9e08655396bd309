"""Whom an initiator proves to be, and that no password shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from initiator import Url
from initiator.credentials import (
    ENV_PASSWORD,
    ENV_TARGET_PASSWORD,
    ENV_TARGET_USER,
    ENV_USER,
    make_auth,
)
from initiator.options import ConnectOptions
from iser.errors import UrlError, UsageError
from iser.login.chap import DEFAULT_ALGORITHMS, ChapAlgorithm, parse_algorithms

SECRET, OTHER = "a secret of ours", "a secret of theirs"
ENVIRONMENT = {ENV_USER: "alice", ENV_PASSWORD: SECRET}


def methods(environment: dict[str, str] | None = None, **options: Any) -> tuple[str, ...]:
    auth = make_auth(ConnectOptions(**options), environment or {})
    return tuple(auth.methods) if auth else ()


def test_without_a_user_there_is_no_authentication() -> None:
    assert methods() == ()


def test_a_user_may_be_let_in_without_unless_the_target_has_to_prove_itself() -> None:
    assert methods(user="alice", password=SECRET) == ("CHAP", "None")
    assert methods(user="alice", password=SECRET, target_user="disk", target_password=OTHER) == ("CHAP",)


def test_a_password_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    assert methods(user="alice", password_file=str(path))


def test_the_environment_as_libiscsi_has_it() -> None:
    assert methods(ENVIRONMENT) == ("CHAP", "None")
    both = ENVIRONMENT | {ENV_TARGET_USER: "disk", ENV_TARGET_PASSWORD: OTHER}
    assert methods(both) == ("CHAP",)
    assert methods({ENV_PASSWORD: SECRET}) == ()
    with pytest.raises(UsageError, match=f"{ENV_PASSWORD} is not set"):
        methods({ENV_USER: "alice"})


def test_an_option_counts_more_than_the_environment() -> None:
    with pytest.raises(UsageError, match="the password of 'bob' has 5 bytes"):
        methods(ENVIRONMENT, user="bob", password="short")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": SECRET}, "without a user"),
        ({"user": "a", "password": SECRET, "password_file": "/x"}, "keep one"),
        ({"target_user": "disk", "target_password": OTHER}, "set user, too"),
        ({"user": "a", "password": SECRET, "target_user": "b", "target_password": SECRET}, "its own"),
        ({"user": "a", "password": "short"}, "has 5 bytes"),
        ({"user": "a", "password_file": "/nowhere/secret"}, "cannot be read"),
        ({"user": "a"}, "is not set"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        methods(**options)
    assert SECRET not in str(caught.value)


def test_algorithms() -> None:
    assert parse_algorithms("") == DEFAULT_ALGORITHMS
    assert parse_algorithms("sha1,md5,sha1") == (ChapAlgorithm.SHA1, ChapAlgorithm.MD5)
    with pytest.raises(UsageError, match="'sha512' does not exist; choose among md5, sha1"):
        ConnectOptions(chap="sha512")


def test_passwords_show_in_no_text() -> None:
    url = Url.parse(
        f"iscsi://alice%{SECRET.replace(' ', '+')}@h/iqn.2026-11.org:d?target_user=b&target_password=hidden"
    )
    for text in (str(url), repr(url.connect_options), repr(url.portal)):
        assert "hidden" not in text
        assert "secret" not in text
    with pytest.raises(UrlError) as caught:
        Url.parse(f"iscsi://alice%{SECRET}@h/iqn.2026-11.org:d?target_password=hidden&strategy=magic")
    assert "hidden" not in str(caught.value)
    assert "secret" not in str(caught.value)
