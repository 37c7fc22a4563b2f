"""Reads and writes the objects of a store through obstore, and says in plain words what failed.

Credentials, endpoints, proxies and time limits are those of the environment, as obstore reads them
(`AWS_...`, `AZURE_...`, `GOOGLE_...`).  Errors of the library are never shown: they may quote
addresses with tokens, and whatever a server answers.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from mcdiff_batch.engine.errors import UsageError

from .place import Url

RETRIES = 8  # of a request, with pauses that grow from 0.1 to 5 s
PATIENCE = 60.0  # s after which a request is not tried again
BUSY = (429, 503)
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
STATUS = re.compile(r"status code: ([1-5][0-9][0-9])\b")
CLUES = {  # in messages of the library, that have no status
    "builder error": "its endpoint is not https; set AWS_ALLOW_HTTP=true or AZURE_ALLOW_HTTP=true "
    "if that is meant",
    "NotPartial": "the server sends no parts of files (range requests), which are needed",
    "IncompleteBody": "the answer was cut short",
    "body error": "the answer was cut short",
    "timed out": "no answer in time",
    "TimedOut": "no answer in time",
    "redential": "no credentials were found in the environment",
    "Account must be specified": "AZURE_STORAGE_ACCOUNT_NAME is not set",
    "dns error": "the name of the server is unknown",
    "onnect": "the server cannot be reached",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of an object, as it was when it was read."""

    size: int  # bytes of the whole object
    tag: str  # of this version of the object; empty where the store gives none
    start: int  # offset of `data`
    data: bytes

    def holds(self, offset: int, length: int) -> bool:
        return self.start <= offset and offset + length <= self.start + len(self.data)


def read_part(url: Url, ahead: int) -> Part | None:
    """The first `ahead` bytes of an object, the last ones if it is negative; None if it is absent.

    Raises OSError.
    """
    with plain_errors():
        try:
            found = _get_part(url, ahead)
        except FileNotFoundError as error:
            _check_bucket(error)
            return None
        except Exception as error:
            if _status(error) != 416:  # an empty object has no part
                raise
            return Part(size=0, tag="", start=0, data=b"")
        size, (start, end), data = found.meta["size"], found.range, bytes(found.bytes())
        if len(data) != end - start:
            raise OSError(errno.EREMOTEIO, "the answer was cut short")
    return Part(size=size, tag=found.meta["e_tag"] or "", start=start, data=data)


def _get_part(url: Url, ahead: int) -> Any:
    """One request; two for the end of an object in Azure, which knows no ranges from the end."""
    options: dict[str, Any] = {"range": {"suffix": -ahead} if ahead < 0 else (0, ahead)}
    if ahead < 0 and url.scheme == "az":
        meta = _obstore().head(connect(url), url.prefix)
        options = {"range": (max(0, meta["size"] + ahead), meta["size"]), "if_match": meta["e_tag"]}
    return _obstore().get(connect(url), url.prefix, options=options)


def read_range(url: Url, offset: int, length: int, tag: str) -> bytes:
    """Bytes of the version `tag` of an object.  Raises OSError, also where that was replaced."""
    options: dict[str, Any] = {"range": (offset, offset + length)}
    if tag:
        options["if_match"] = tag
    with plain_errors():
        data = bytes(_obstore().get(connect(url), url.prefix, options=options).bytes())
        if len(data) != length:
            raise OSError(errno.EREMOTEIO, "the answer was cut short")
        return data


@lru_cache
def _connect(scheme: str, bucket: str) -> Any:
    pauses = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}
    retry = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=PATIENCE),
        "backoff": {**pauses, "base": 2},
    }
    stores = _obstore().store
    match scheme:
        case "s3":
            return stores.S3Store(bucket, retry_config=retry)
        case "gs":
            return stores.GCSStore(bucket, retry_config=retry)
        case "az":
            return stores.AzureStore(bucket, retry_config=retry)
    options = {"allow_http": scheme == "http"}
    address = f"{scheme}://{bucket}"
    return stores.HTTPStore.from_url(address, client_options=options, retry_config=retry)


def connect(url: Url) -> Any:
    """The store of `url`, one in a process; no request is made."""
    return _connect(url.scheme, url.bucket)


def _obstore() -> Any:
    """Raises UsageError where it is not installed."""
    try:
        import obstore
        import obstore.store
    except ModuleNotFoundError:
        raise UsageError(
            "object stores need obstore, which is not installed: pip install 'mcdiff-batch[cloud]'"
        ) from None
    return obstore


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns any error of the library into an OSError, errno EREMOTEIO, that says what it means."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise OSError(errno.EREMOTEIO, _describe(error)) from None


def _check_bucket(error: FileNotFoundError) -> None:
    """An object is absent only if its bucket is there.  Raises OSError."""
    if any(x in str(error) for x in NO_BUCKET):
        raise OSError(errno.EREMOTEIO, "the store has no such bucket or container") from None


def _status(error: Exception) -> int:
    """The status of the store's answer; 0 where it gave none."""
    match = STATUS.search(str(error))
    return int(match[1]) if match else 0


def _describe(error: Exception) -> str:
    status, text = _status(error), str(error)
    if status in (401, 403):
        return (
            f"the store refuses access ({status}); without the right to list, it also says so of "
            "objects that are absent"
        )
    if status == 412 or type(error).__name__ == "PreconditionError":
        return "it was changed while it was read"
    if status:
        return f"the store {'is too busy' if status in BUSY else 'answers'} ({status})"
    return next(
        (x for clue, x in CLUES.items() if clue in text), "the store gives no usable answer"
    )
