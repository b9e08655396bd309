"""The tables of access control: the policy that they make, and every fault with its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from iser.errors import UsageError
from iser.login.chap import ChapAlgorithm
from target.config import Config, ConfigErrors, load
from target.config.access import build_policy

BASE = """
[portal.main]
listen = "iscsi://127.0.0.1:0"
group = 7

[chap.alice]
secret_env = "ALICE"

[chap.us]
user = "the-target"
secret_file = "us.secret"

[access]
algorithms = ["sha256", "md5"]

[discovery]
initiators = ["iqn.2026-11.test:*"]
chap = ["alice"]

[[target]]
name = "iqn.2026-11.test:disk"
portals = ["main"]

[[target.lun]]
id = 0
backend = "memory"
size = "1M"

[[target.acl]]
initiator = "iqn.2026-11.test:good*"
chap = ["alice"]
mutual = "us"
luns = { 3 = 0 }

[[target.acl]]
initiator = "*"
allow = false
"""


def read(directory: Path, text: str = BASE) -> Config:
    path = directory / "target.toml"
    path.write_text(text)
    return load(path)


def faults(directory: Path, old: str, new: str) -> str:
    assert old in BASE
    with pytest.raises(ConfigErrors) as caught:
        read(directory, BASE.replace(old, new, 1))
    return str(caught.value)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "us.secret"
    path.write_text("our very own secret\n")
    path.chmod(0o600)
    monkeypatch.setenv("ALICE", "alice's own secret")
    return path


def test_the_policy_is_what_the_file_says(tmp_path: Path, secret: Path) -> None:
    config = read(tmp_path)
    policy = build_policy(config)
    first, second = policy.targets["iqn.2026-11.test:disk"]
    assert (first.name, first.allow, first.luns) == ("target[0].acl[0] iqn.2026-11.test:good*", True, {3: 0})
    assert [user.name for user in first.users] == ["alice"]
    assert first.mutual
    assert (first.mutual.name, first.mutual.secret.reveal()) == ("the-target", b"our very own secret")
    assert (second.allow, second.users, second.luns) == (False, (), None)
    assert [rule.initiator for rule in policy.discovery] == ["iqn.2026-11.test:*"]
    assert policy.algorithms == (ChapAlgorithm.SHA256, ChapAlgorithm.MD5)
    assert config.portal["main"].group == 7
    assert "secret" not in repr(policy).replace("<Secret>", "").replace("secret=", "")


def test_without_any_of_it_all_is_open(tmp_path: Path) -> None:
    text = BASE[: BASE.index("[chap.alice]")] + BASE[BASE.index("[[target]]") : BASE.index("[[target.acl]]")]
    policy = build_policy(read(tmp_path, text))
    assert policy.targets == {"iqn.2026-11.test:disk": []}
    assert [rule.users for rule in policy.discovery] == [()]


@pytest.mark.parametrize(
    ("text", "luns"),
    [("[0]", {0: 0}), ("{ 5 = 0 }", {5: 0}), ('{ "5" = 0 }', {5: 0})],
)
def test_lun_maps(tmp_path: Path, text: str, luns: dict[int, int]) -> None:
    config = read(tmp_path, BASE.replace("{ 3 = 0 }", text))
    assert config.target[0].acl[0].luns == luns


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("luns = { 3 = 0 }", "luns = [0, 9]", "names LUN 9, which this target does not have"),
        ("luns = { 3 = 0 }", "luns = []", "has to be a list of LUN numbers"),
        ("luns = { 3 = 0 }", "luns = 3", "has to be a list of LUN numbers"),
        ("luns = { 3 = 0 }", "luns = [0, 0]", "none twice"),
        ("luns = { 3 = 0 }", "luns = { 1 = 0, 2 = 0 }", "one LUN under two numbers"),
        ("luns = { 3 = 0 }", "luns = { x = 0 }", "'x' is not a LUN number"),
        ("luns = { 3 = 0 }", "luns = [99999]", "99999 is not a LUN number"),
        ("luns = { 3 = 0 }", "luns = [true]", "True is not a LUN number"),
        ('mutual = "us"', 'mutual = "them"', "names 'them', but there is no [chap.them]"),
        ('chap = ["alice"]\nmutual', "mutual", "is of no use without chap"),
        ('chap = ["alice"]\n\n[[target]]', 'chap = ["bob"]\n\n[[target]]', "discovery.chap: names 'bob'"),
        ('portals = ["main"]', 'portals = ["side"]', "names 'side', but there is no [portal.side]"),
        ('secret_env = "ALICE"', "", "needs secret_file or secret_env"),
        ('secret_env = "ALICE"', 'secret_env = "A"\nsecret_file = "b"', "and not both"),
        ('secret_env = "ALICE"', 'secret_env = "ALICE"\nsecret = "oh no"', "chap.alice.secret: is not a known key"),
        ('"sha256", "md5"', '"sha512"', "has to be 'md5', 'sha1', 'sha256' or 'sha3-256'"),
        ('"sha256", "md5"', "", "algorithms: is empty"),
        ("group = 7", "group = 0", "has to be at least 1"),
        ("group = 7", "group = 65536", "has to be at most 65535"),
        ('initiator = "*"', 'initiator = ""', "is empty"),
        ("allow = false", 'allow = "no"', "has to be true or false"),
    ],
)
def test_faults(tmp_path: Path, old: str, new: str, words: str) -> None:
    said = faults(tmp_path, old, new)
    assert words in said
    assert "oh no" not in said
    assert len(said.splitlines()) == 1


def test_the_example_of_the_documentation_is_a_good_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/access-control.md").read_text()
    config = read(tmp_path, text.split("```toml\n")[1].split("```")[0])
    assert config.target[0].acl[1].luns == {0: 1}


def test_a_fault_names_its_line(tmp_path: Path) -> None:
    line = BASE.splitlines().index('mutual = "us"') + 1
    assert faults(tmp_path, 'mutual = "us"', 'mutual = "them"').startswith(
        f"{tmp_path}/target.toml:{line}: target[0].acl[0]"
    )


def test_secrets_are_read_when_the_target_starts(tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(tmp_path)
    secret.chmod(0o644)
    with pytest.raises(UsageError, match=r"us.secret may be read by everybody"):
        build_policy(config)
    secret.chmod(0o600)
    monkeypatch.setenv("ALICE", "short")
    with pytest.raises(UsageError, match=r"\$ALICE has 5 bytes"):
        build_policy(config)
    monkeypatch.delenv("ALICE")
    with pytest.raises(UsageError, match="variable ALICE is not set"):
        build_policy(config)
    monkeypatch.setenv("ALICE", "our very own secret")
    with pytest.raises(UsageError, match="give each direction its own"):
        build_policy(config)
