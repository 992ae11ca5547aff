"""Where keys for S3 are when none were given for a store: the environment, and the files in ~/.aws.

As the AWS command line has them, but only keys that simply stand there: what would have to be asked for (single
sign-on, roles, a program, the machine's own identity) is refused in words that say what to do instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from annex_remote.errors import Denied
from annex_remote.stores.sigv4 import Keys

__all__ = ["find_keys"]

_ID, _SECRET, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"

_ASKED_FOR = {
    "credential_process": "a program",
    "sso_session": "single sign-on",
    "sso_start_url": "single sign-on",
    "login_session": "aws login",
    "role_arn": "a role",
    "credential_source": "a role",
    "web_identity_token_file": "a role",
}
"""What a profile may have instead of keys, and what that is in words."""


def find_keys(environment: Mapping[str, str] = os.environ) -> Keys | None:
    """Return the keys of the environment, else those of the profile in ~/.aws; None if there are none.

    Raises `Denied` where there is something that does not lead to keys.
    """
    in_environment = {name: environment.get(name.upper(), "") for name in (_ID, _SECRET, _TOKEN)}
    return _keys(in_environment, "the environment", upper=True) or _keys_in_files(environment)


def _keys_in_files(environment: Mapping[str, str]) -> Keys | None:
    profile = environment.get("AWS_PROFILE") or "default"
    shared = _file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
    general = _file(environment, "AWS_CONFIG_FILE", "config")
    sections = [
        (_section(shared, profile), shared),
        (_section(general, profile if profile == "default" else f"profile {profile}"), general),
    ]
    for section, file in sections:
        if section and (keys := _keys(section, f"the profile {profile} in {file}")):
            return keys
    for section, file in sections:
        for setting in (section or {}).keys() & _ASKED_FOR.keys():
            raise Denied(
                f"the profile {profile} in {file} has no keys but {setting}, and asking {_ASKED_FOR[setting]} for "
                f"keys is not supported: give them in the environment, by "
                f'eval "$(aws configure export-credentials --profile {profile} --format env)"',
                wants_login=True,
            )
    if profile != "default" and not any(section is not None for section, _ in sections):
        raise Denied(f"AWS_PROFILE={profile}, but neither {shared} nor {general} has it", wants_login=True)
    return None


def _file(environment: Mapping[str, str], variable: str, name: str) -> str:
    return os.path.expanduser(environment.get(variable) or os.path.join("~", ".aws", name))


def _section(file: str, name: str) -> Mapping[str, str] | None:
    """Return a section of a file, None if there is no such section or no such file."""
    import configparser  # only those who look into files pay for it

    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        with open(file, encoding="utf-8") as opened:
            parser.read_file(opened)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # Their own text might quote a line of the file.
        why = error.strerror if isinstance(error, OSError) else "it is not in the form that such files have"
        raise Denied(f"{file} may have the keys for S3, and cannot be read: {why}", wants_login=True) from None
    return parser[name] if parser.has_section(name) else None


def _keys(found: Mapping[str, str], where: str, *, upper: bool = False) -> Keys | None:
    """Return the keys in `found`, None if there are none; raises `Denied` for half of them."""
    key, secret = found.get(_ID, ""), found.get(_SECRET, "")
    if bool(key) != bool(secret):
        missing = _SECRET if key else _ID
        raise Denied(
            f"half of the keys for S3 is in {where}: {missing.upper() if upper else missing} is missing",
            wants_login=True,
        )
    return Keys(key, secret, found.get(_TOKEN, "")) if key else None
