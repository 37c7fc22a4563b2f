"""Where an archive or an output is: a folder, or the address of a part of an object store."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcdiff_batch.engine.errors import UsageError

SCHEMES = {"s3": "s3://bucket/name", "gs": "gs://bucket/name", "az": "az://container/name"}
WEB = {"https": "https://host/name", "http": "http://host/name"}
ALLOW_HTTP = "MCDIFF_ALLOW_HTTP"  # a variable of the environment, for addresses with http://
ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """An address without credentials: those come from the environment alone."""

    scheme: str
    bucket: str  # container, or host and port
    prefix: str  # of all keys; no slash at either end

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.prefix.rpartition("/")[2]

    @property
    def can_list(self) -> bool:
        """Whether there are listings and conditional writes; plain web servers have neither."""
        return self.scheme in SCHEMES

    @property
    def parents(self) -> Iterator["Url"]:
        """The addresses that this one lies in, from the next to the bucket, whose prefix is ""."""
        prefix = self.prefix
        while prefix:
            prefix = prefix.rpartition("/")[0]
            yield Url(self.scheme, self.bucket, prefix)

    def __truediv__(self, name: str) -> "Url":
        return Url(self.scheme, self.bucket, f"{self.prefix}/{name}".lstrip("/"))

    def holds(self, other: "Url") -> bool:
        """Whether `other` is this address or lies below it."""
        inside = f"{other.prefix}/".startswith(f"{self.prefix}/")
        return (self.scheme, self.bucket) == (other.scheme, other.bucket) and inside


Place = Path | Url


def parse_place(text: str) -> Place:
    """A folder, or an address such as s3://bucket/name.

    Raises UsageError for an address that is not understood or that may hold a secret; the message
    does not repeat such an address.
    """
    match = ADDRESS.fullmatch(text)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme not in SCHEMES | WEB:
        known = ", ".join(SCHEMES | WEB)
        raise UsageError(f"{scheme}://: this scheme is unknown, expected one of {known}, or a path")
    if scheme == "http" and os.environ.get(ALLOW_HTTP, "").lower() not in ("1", "true"):
        raise UsageError(
            f"http://: anyone on the way could read and change the images; use https://, or set "
            f"{ALLOW_HTTP}=true in the environment if the network is your own"
        )
    bucket, _, path = rest.partition("/")
    if "@" in bucket or any(x in rest for x in "?#"):
        raise UsageError(
            f"{scheme}://...: the address holds a user name, a query (?...) or a fragment (#...), "
            f"which may be a secret; write {(SCHEMES | WEB)[scheme]}, and put credentials into the "
            "environment (see the page on object stores, engine/cloud/README.md)"
        )
    return Url(scheme, bucket, _check(f"{scheme}://{rest}", bucket, path))


def _check(text: str, bucket: str, path: str) -> str:
    """The prefix of keys.  Raises UsageError unless it means the same to every store."""
    parts = path.rstrip("/").split("/")
    expected = (SCHEMES | WEB)[text.partition(":")[0]]
    if not HOST.fullmatch(bucket) or not path.strip("/"):
        raise UsageError(f"{text}: is not a full address, expected for example {expected}")
    plain = all(x.isprintable() and "\\" not in x and "%" not in x for x in parts)
    if not plain or any(x in ("", ".", "..") for x in parts):
        raise UsageError(
            f"{text}: has an empty part, '.', '..', '%', '\\' or a control character in its path; "
            f"expected plain names, for example {expected}"
        )
    return "/".join(parts)
