"""The target's configuration: what it says, what is wrong with it, and the devices that it makes."""

from __future__ import annotations

from target.config.model import (
    AdminConfig,
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
    "AdminConfig",
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
