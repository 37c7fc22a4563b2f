"""Reads and writes the objects of a store through obstore, and says in plain words what failed.

Credentials, endpoints, proxies and time limits are those of the environment, as obstore reads them
(`AWS_...`, `AZURE_...`, `GOOGLE_...`).  Errors of the library are never shown: they may quote
addresses with tokens, and whatever a server answers.
"""

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from mcdiff_batch.engine.errors import UsageError

from .place import Url

A = TypeVar("A")
T = TypeVar("T")
REQUESTS = 16  # at a time, for one purpose; at 20 ms each, 800 a second
PIECE = 1 << 20  # bytes of an answer that are looked at together
PATIENCE = 120.0  # s after which a request is not tried again
BUSY = (429, 503)
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
NO_SUCH_BUCKET = "the store has no such bucket or container"
CUT = "the answer was cut short"
STATUS = re.compile(r"status code: ([1-5][0-9][0-9])\b")
CLUES = {  # in messages of the library, that have no status
    "builder error": "its endpoint is not https; set AWS_ALLOW_HTTP=true or AZURE_ALLOW_HTTP=true "
    "if that is meant",
    "NotPartial": "the server sends no parts of files (range requests), which are needed",
    "IncompleteBody": CUT,
    "body error": CUT,
    "timed out": "no answer in time",
    "TimedOut": "no answer in time",
    "redential": "no credentials were found in the environment",
    "Account must be specified": "AZURE_STORAGE_ACCOUNT_NAME is not set",
    "dns error": "the name of the server is unknown",
    "onnect": "the server cannot be reached",
}


def call_ahead(call: Callable[[A], T], items: Iterable[A]) -> Iterator[tuple[A, Future[T]]]:
    """Each item with its result, in order; several calls are under way at once."""
    source = iter(items)
    with ThreadPoolExecutor(REQUESTS) as pool:
        submit = lambda item: (item, pool.submit(call, item))
        waiting = deque(map(submit, islice(source, 2 * REQUESTS)))
        while waiting:
            yield waiting.popleft()
            waiting.extend(map(submit, islice(source, 1)))


class Retries(NamedTuple):
    """How often a request is tried again, and by how much the pauses grow, chance aside."""

    most: int
    base: float


OF_INPUT = Retries(8, 3)  # some seconds: the case stays open
OF_OUTPUT = Retries(12, 4)  # about a minute: then the run ends


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
    try:
        return _ask(url, lambda: _read_part(url, ahead))
    except FileNotFoundError:
        return None


def _read_part(url: Url, ahead: int) -> Part:
    try:
        found = _get_part(url, ahead)
    except Exception as error:
        if _status(error) != 416:  # an empty object has no part
            raise
        return Part(size=0, tag="", start=0, data=b"")
    meta, start = found.meta, found.range[0]
    data = _take(url, found, min(found.range[1] - start, abs(ahead)))
    return Part(size=meta["size"], tag=meta["e_tag"] or "", start=start, data=data)


def _take(url: Url, found: Any, length: int) -> bytes:
    """The body of an answer.  Raises OSError if it is not `length` bytes; reads hardly more."""
    data = bytearray()
    for part in found.stream(min_chunk_size=PIECE):
        data += part
        if len(data) > length:
            raise store_error(url, "the answer is longer than what was asked for")
    if len(data) < length:
        raise store_error(url, CUT)
    return bytes(data)


def _get_part(url: Url, ahead: int) -> Any:
    """One request; two for the end of an object in Azure, which knows no ranges from the end."""
    if ahead < 0 and url.scheme == "az":
        meta = get_obstore().head(connect(url, OF_INPUT), url.prefix)
        size, tag = meta["size"], meta["e_tag"]
        return _get(url, range=(max(0, size + ahead), max(1, size)), if_match=tag)
    return _get(url, range={"suffix": -ahead} if ahead < 0 else (0, ahead))


def _get(url: Url, **options: Any) -> Any:
    return get_obstore().get(connect(url, OF_INPUT), url.prefix, options=options)


def read_range(url: Url, offset: int, length: int, tag: str) -> bytes:
    """Bytes of the version `tag` of an object.  Raises OSError, also if another one replaced it."""
    version = {"if_match": tag} if tag else {}
    get = lambda: _get(url, range=(offset, offset + length), **version)
    return _ask(url, lambda: _take(url, get(), length))


def read_object(url: Url) -> tuple[bytes, dict[str, str]]:
    """A whole object, and its version, as `put` takes it.

    Raises FileNotFoundError, other OSError.
    """
    return _ask(url, lambda: _read_object(url))


def _read_object(url: Url) -> tuple[bytes, dict[str, str]]:
    found = get_obstore().get(connect(url, OF_OUTPUT), url.prefix)
    names = {name: found.meta[name] for name in ("e_tag", "version")}
    data = _take(url, found, found.meta["size"])
    return data, {k: v for k, v in names.items() if v is not None}


def _ask(url: Url, read: Callable[[], T]) -> T:
    """Reads; if an answer was cut short, reads once more, which the library does not always do."""
    try:
        with plain_errors(url):
            return read()
    except OSError as error:
        if error.strerror != CUT:
            raise
    with plain_errors(url):
        return read()


@lru_cache
def _connect(scheme: str, bucket: str, retries: Retries) -> Any:
    pauses = {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=15),
        "base": retries.base,
    }
    limit = timedelta(seconds=PATIENCE)
    retry = {"max_retries": retries.most, "retry_timeout": limit, "backoff": pauses}
    stores = get_obstore().store
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


def connect(url: Url, retries: Retries) -> Any:
    """The store of `url`, one in a process; no request is made."""
    return _connect(url.scheme, url.bucket, retries)


def get_obstore() -> Any:
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
def plain_errors(url: Url) -> Iterator[None]:
    """Turns any error of the library into an OSError (EREMOTEIO) in plain words.
    Raises FileNotFoundError for an object that is absent.
    """
    try:
        yield
    except FileNotFoundError as error:
        if any(x in str(error) for x in NO_BUCKET):
            raise store_error(url, NO_SUCH_BUCKET) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(url)) from None
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise store_error(url, _describe(error)) from None


def store_error(url: Url, text: str) -> OSError:
    return OSError(errno.EREMOTEIO, text, str(url))


def is_refusal(error: Exception) -> bool:
    """Whether a store refused a conditional write: the object exists, or is not as expected."""
    names = ("AlreadyExistsError", "PreconditionError")
    return type(error).__name__ in names or _status(error) in (409, 412)


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
    if status == 404:
        return NO_SUCH_BUCKET
    if status == 412 or type(error).__name__ == "PreconditionError":
        return "it was changed while it was read"
    if status:
        return f"the store {'is too busy' if status in BUSY else 'answers'} ({status})"
    return next(
        (x for clue, x in CLUES.items() if clue in text), "the store gives no usable answer"
    )
