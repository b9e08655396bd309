"""Finding out, before the first case, what is there to be tested."""

from __future__ import annotations

import asyncio
import os

from initiator.conformance.site import Place, Site
from initiator.establish import make_provider, open_session
from initiator.lun import Lun
from initiator.options import ConnectOptions, default_initiator_name
from initiator.url import Url

__all__ = ["survey"]


async def survey(url: Url, options: ConnectOptions, settle: float, *, seed: bool = False) -> Site:
    """Log in to ``url`` once and learn its size.

    With ``seed`` the blocks that destructive cases use get random contents, so that data in a wrong place shows.
    ``settle`` is how many seconds the target needs between a login and the first write.  Raises what
    :func:`initiator.connect` raises, and UsageError for a LUN that is no block device.
    """
    provider = await make_provider(url.portal, options)
    link = await open_session(url.portal, url.target, options, provider)
    async with await Lun.open(link, url.lun, options) as lun:
        site = Site(
            provider=provider,
            place=Place(link.portal),
            target=url.target,
            lun=url.lun,
            options=options,
            initiator_name=options.initiator_name or default_initiator_name(),
            settle=settle,
            block_size=lun.capacity.block_size,
            blocks=lun.capacity.blocks,
            max_transfer=lun.max_transfer,
        )
        if seed:
            await asyncio.sleep(settle)
            await lun.write(0, os.urandom(site.scratch * site.block_size))
    return site
