"""Names of images for the shell's completion: `eval "$(_SAFELIGHT_COMPLETE=bash_source safelight)"` turns it on."""

from __future__ import annotations

from typing import Any

import click

from safelight.cli.user.config_options import config_of

TIMEOUT = 2.0
"""Seconds after which a Tab gets no names."""


def image_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names, and names of original files, that begin with `incomplete`, as the vault has them; none on an error.

    Click's script for bash splits words, so names with blanks are left out.
    """
    from safelight.errors import SafelightError
    from safelight.runtime.signals import run

    try:
        config = config_of({**context.params, "timeout": TIMEOUT})
        names = run(_names(config)) if config.user is not None else []
    except (SafelightError, click.ClickException, OSError):
        return []
    return [name for name in names if name.startswith(incomplete) and not any(map(str.isspace, name))]


async def _names(config: Any) -> list[str]:
    from safelight.client.async_client import AsyncClient

    async with AsyncClient.of(config, config.user) as client:
        async for page in client.session.images.all():
            return list(dict.fromkeys(name for image in page for name in (image.name, image.original) if name))
    return []
