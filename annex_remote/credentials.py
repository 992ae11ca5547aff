"""Where this clone's capability is kept: with git-annex's credentials, or in the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from annex_remote.capability import Capability

if TYPE_CHECKING:
    from annex_remote.protocol.jobs import Job

__all__ = ["ENVIRONMENT", "creds_capability", "environment_capability", "keep_capability"]

ENVIRONMENT = "SWARM_CAPABILITY"

_SETTING = "capability"
_USER = "swarm"


def creds_capability(job: Job) -> Capability | None:
    """Return the capability that git-annex keeps for this clone, None if it keeps none; raises `BadSetting`."""
    _, password = job.get_creds(_SETTING)
    return Capability.parse(password) if password else None


def environment_capability() -> Capability | None:
    """Return the capability in the environment, None if there is none; raises `BadSetting`."""
    text = os.environ.get(ENVIRONMENT, "")
    return Capability.parse(text) if text.strip() else None


def keep_capability(job: Job, capability: Capability) -> None:
    """Hand the capability to git-annex, whose own rules for credentials then apply (embedcreds, encryption)."""
    job.set_creds(_SETTING, _USER, capability.format())
