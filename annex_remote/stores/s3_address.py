"""Addresses of S3 stores: ``s3://endpoint[:port]/bucket[/prefix][?option=value&...]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from annex_remote.errors import BadSetting
from annex_remote.stores.address import Place, parse_place

__all__ = ["Bucket", "read_address"]

_OPTIONS = ("region", "style", "class", "http", "ca")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?=[a-z0-9]))*[a-z0-9]\Z")
_NUMBERS = re.compile(r"\d+\.\d+\.\d+\.\d+\Z")
_AMAZON = re.compile(r".*\.amazonaws\.com(?:\.cn)?\Z")
_REGIONAL = re.compile(
    r"s3[.-](?:dualstack\.|fips\.)?([a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|backblazeb2\.com|wasabisys\.com|scw\.cloud|(?:io\.)?cloud\.ovh\.(?:net|us))\Z"
)
"""Endpoints whose names tell the region."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, or a folder in it, and how to speak to it."""

    origin: str
    """Scheme, host, and port if it is not the usual one."""
    path: str
    """Of the bucket, as it stands in a URL: empty if the host's name says which one."""
    prefix: str
    """What begins the key of everything that is ours; ends with a slash, or is empty."""
    region: str
    storage_class: str = ""
    ca: str = ""

    @property
    def is_encrypted(self) -> bool:
        """True if what is sent there goes through TLS."""
        return self.origin.startswith("https:")

    @property
    def put_headers(self) -> dict[str, str]:
        """What goes with everything that is put there."""
        return {"x-amz-storage-class": self.storage_class} if self.storage_class else {}


def read_address(address: str) -> tuple[Place, Bucket]:
    """Return the place in its one form, and the bucket; raises `BadSetting`."""
    place = parse_place(address, options=_OPTIONS)
    options = place.options
    shown = str(place)
    if options.get("http", "yes") != "yes":
        raise BadSetting(f"{shown!r}: http=yes sends without encryption; to encrypt, leave it out")
    scheme, usual_port = ("http", 80) if "http" in options else ("https", 443)
    if place.port == usual_port:
        place = replace(place, port=None)
    bucket, _, prefix = place.path.removeprefix("/").partition("/")
    if not 3 <= len(bucket) <= 63 or not _BUCKET.match(bucket) or _NUMBERS.match(bucket):
        raise BadSetting(
            f"{shown!r}: {bucket!r} cannot be a bucket, which is the first word of the path: 3 to 63 small "
            f"letters, digits, dots and dashes, such as s3://{place.netloc}/my-bucket/annex"
        )
    # Certificates are for one label before the endpoint's name, so a bucket with dots does not go there.
    usual_style = "host" if _AMAZON.match(place.host) and "." not in bucket else "path"
    style = options.get("style", usual_style)
    if style not in ("path", "host"):
        raise BadSetting(f"{shown!r}: style is path or host")
    for name, example in (("region", "eu-central-1"), ("class", "STANDARD_IA")):
        if not _WORD.match(options.get(name, example)):
            raise BadSetting(f"{shown!r}: {name} is a word like {example}")
    if "ca" in options and "http" in options:
        raise BadSetting(f"{shown!r}: ca is for TLS, which http=yes does without")
    by_host = style == "host"
    return place, Bucket(
        origin=f"{scheme}://{bucket}.{place.netloc}" if by_host else f"{scheme}://{place.netloc}",
        path="" if by_host else f"/{bucket}",
        prefix=f"{prefix}/" if prefix else "",
        region=options.get("region") or _region(place.host),
        storage_class=options.get("class", ""),
        ca=options.get("ca", ""),
    )


def _region(host: str) -> str:
    """Return the region that an endpoint's name tells, or the usual one; a server may say another one later."""
    if host.endswith(".r2.cloudflarestorage.com"):
        return "auto"
    found = _REGIONAL.match(host)
    return found[1] if found else "us-east-1"
