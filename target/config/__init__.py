"""The target's configuration: what it says, what is wrong with it, and the devices that it makes."""

from __future__ import annotations

from target.config.model import (
    Config,
    ConfigErrors,
    FaultConfig,
    LimitsConfig,
    LunConfig,
    PortalConfig,
    RnicConfig,
    TargetConfig,
    config_from_flags,
    load,
    parse_size,
)

__all__ = [
    "Config",
    "ConfigErrors",
    "FaultConfig",
    "LimitsConfig",
    "LunConfig",
    "PortalConfig",
    "RnicConfig",
    "TargetConfig",
    "config_from_flags",
    "load",
    "parse_size",
]
