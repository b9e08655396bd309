"""``iser bench``: what scatter-gather lists cost under each strategy, exact counts first, times second."""

from __future__ import annotations
