"""The local admin socket: what a running target answers, and the commands that ask it."""

from __future__ import annotations

from target.admin.client import DEFAULT_SOCKET, ask
from target.admin.commands import Administration
from target.admin.listener import AdminListener

__all__ = ["DEFAULT_SOCKET", "AdminListener", "Administration", "ask"]
