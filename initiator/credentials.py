"""Whom an initiator proves to be: from the options, from files, or from libiscsi's environment variables.

A password in a URL is as libiscsi has it, but everybody on the machine can see it in the list of processes; a file or
the environment keeps it to its owner.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from initiator.options import ConnectOptions
from iser.errors import UsageError
from iser.login.chap import ChapUser, InitiatorChap, parse_algorithms
from iser.secret import Secret

__all__ = ["ENV_PASSWORD", "ENV_TARGET_PASSWORD", "ENV_TARGET_USER", "ENV_USER", "chap_users", "make_auth"]

ENV_USER: Final = "LIBISCSI_CHAP_USERNAME"
ENV_PASSWORD: Final = "LIBISCSI_CHAP_PASSWORD"  # noqa: S105 - the name of a variable
ENV_TARGET_USER: Final = "LIBISCSI_CHAP_TARGET_USERNAME"
ENV_TARGET_PASSWORD: Final = "LIBISCSI_CHAP_TARGET_PASSWORD"  # noqa: S105 - likewise


def make_auth(options: ConnectOptions, environment: Mapping[str, str] | None = None) -> InitiatorChap | None:
    """The authentication of one login; None without a user.  The environment counts only where no option is set.

    Raises UsageError for a secret that is missing or too short, and for one that serves both directions.
    """
    users = chap_users(options, environment)
    return InitiatorChap(*users, parse_algorithms(options.chap)) if users else None


def chap_users(
    options: ConnectOptions, environment: Mapping[str, str] | None = None
) -> tuple[ChapUser, ChapUser | None] | None:
    """Whom we prove to be, and who has to prove itself to us; None without a user.  Raises UsageError."""
    around = os.environ if environment is None else environment
    user = _user(options.user, options.password, options.password_file, ENV_USER, ENV_PASSWORD, around)
    target = _user(
        options.target_user,
        options.target_password,
        options.target_password_file,
        ENV_TARGET_USER,
        ENV_TARGET_PASSWORD,
        around,
    )
    if user is None:
        if target is not None:
            raise UsageError("target_user goes with user: only who proves itself may ask for a proof; set user, too")
        return None
    return user, target


def _user(
    name: str, password: str, file: str, env_name: str, env_password: str, environment: Mapping[str, str]
) -> ChapUser | None:
    if not (name or password or file):
        name = environment.get(env_name, "")
        if not name:
            return None
    if not name:
        raise UsageError("a CHAP password without a user; set the user, too")
    if password and file:
        raise UsageError(f"CHAP user {name!r} has a password and a password file; keep one")
    if password:
        return ChapUser(name, Secret(password.encode(), f"the password of {name!r}"))
    return ChapUser(name, Secret.from_file(file) if file else Secret.from_environment(env_password, environment))
