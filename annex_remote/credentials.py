"""Where secrets are: this clone's capability, and logins of stores.

git-annex keeps them with its credentials; the environment comes first. Other programs' own places (netrc,
~/.aws, rclone.conf, an ssh agent) are known to the kinds of stores that use them, and looked at when there is
nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from annex_remote.capability import Capability
from annex_remote.errors import BadSetting
from annex_remote.model import Login

if TYPE_CHECKING:
    from annex_remote.protocol.jobs import Job

__all__ = [
    "ENVIRONMENT",
    "address_variable",
    "creds_capability",
    "creds_login",
    "environment_capability",
    "environment_login",
    "host_of",
    "keep_capability",
    "keep_login",
    "login_variables",
    "store_logins",
]

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


def login_variables(store: str) -> tuple[str, str]:
    """Return the names of the environment's variables for a store's user and password."""
    return _variable(store, "USER"), _variable(store, "PASSWORD")


def address_variable(store: str) -> str:
    """Return the name of the environment's variable that says where the login beside it is for."""
    return _variable(store, "ADDRESS")


def _variable(store: str, what: str) -> str:
    # Names of stores have small letters, digits and dashes: no two of them give one variable.
    return f"SWARM_STORE_{store.upper().replace('-', '_')}_{what}"


def environment_login(store: str) -> Login | None:
    """Return the store's login in the environment, None if there is none; raises `BadSetting` for half of one."""
    user, password = (os.environ.get(name, "") for name in login_variables(store))
    if bool(user) != bool(password):
        missing = login_variables(store)[1 if user else 0]
        raise BadSetting(f"half of the login of {store} is in the environment: {missing} is missing")
    return Login(user, password) if user else None


def creds_login(job: Job, store: str, address: str) -> Login | None:
    """Return the login that git-annex keeps for a store at `address`, None if it keeps none.

    One that was kept for another host is not given to this one: who may change addresses may not, for that, learn
    passwords.
    """
    kept, password = job.get_creds(_login_setting(store))
    user, _, host = kept.partition("/")
    return Login(unquote(user), password) if password and unquote(host) == host_of(address) else None


def store_logins(job: Job, addresses: Mapping[str, str]) -> dict[str, Login]:
    """Return the logins that are known of the stores in `addresses`, by name; raises `BadSetting`.

    git-annex is asked here and now, on the job's own thread: whoever needs a login later may be on another one.
    """
    logins = {
        name: environment_login(name) or creds_login(job, name, address) for name, address in addresses.items()
    }
    return {name: login for name, login in logins.items() if login is not None}


def keep_login(job: Job, store: str, address: str, login: Login) -> None:
    """Hand the login of a store at `address` to git-annex, whose own rules for credentials then apply."""
    # The protocol takes no user with a blank in it.
    user = f"{quote(login.user, safe='@+')}/{quote(host_of(address), safe=':')}"
    job.set_creds(_login_setting(store), user, login.password)


def host_of(address: str) -> str:
    """Return the host, and the port, in the address of a store; empty if it has none."""
    return urlsplit(address).netloc.rpartition("@")[2]


def _login_setting(store: str) -> str:
    return f"login-{store}"
