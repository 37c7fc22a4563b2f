"""The committed files of an output in an object store.

A PUT is complete or absent, so it takes the place of fsync and rename.  There is no lock: what must
not be written twice is created only if it is absent, or replaced only if it is as it was read.
If the answer to a write is lost, the write is repeated and the store refuses it, although it has
the data; so after a refusal the object is read and compared.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from mcdiff_batch.engine.errors import UsageError

from .objects import (
    OF_OUTPUT,
    call_ahead,
    connect,
    get_obstore,
    is_refusal,
    plain_errors,
    read_object,
    store_error,
)
from .place import Url

A = TypeVar("A")
T = TypeVar("T")
TRIES = 6  # of a write that another one gets in the way of
TRIAL = ".tmp"  # folder of the objects with which a store is tried


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """Implements `Files` of engine/output/durable.py.  Any method raises OSError."""

    place: Url

    def read(self, name: str) -> bytes:
        return read_object(self.place / name)[0]

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name, data in call_ahead(self.read, names):
            with suppress(FileNotFoundError):  # it was there when it was listed
                yield name, data.result()

    def read_heads(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        return ((name, data.partition(b"\n")[0]) for name, data in self.read_all(names))

    def map(self, call: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
        return (found.result() for _, found in call_ahead(call, items))

    def size(self, name: str) -> int:
        url = self.place / name
        with plain_errors(url):
            return int(get_obstore().head(connect(url, OF_OUTPUT), url.prefix)["size"])

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str = "") -> Iterator[str]:
        """Names of the files and folders in a folder, without it."""
        prefix = f"{self.place.prefix}/{folder}".rstrip("/")
        with plain_errors(self.place):
            found = get_obstore().list_with_delimiter(connect(self.place, OF_OUTPUT), prefix=prefix)
            paths = [*(x["path"] for x in found["objects"]), *found["common_prefixes"]]
        yield from (x.removeprefix(f"{prefix}/") for x in paths)

    def write(self, name: str, data: bytes) -> None:
        self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless it exists; returns whether it now has this content."""
        for pause in range(TRIES):
            if self._put(name, data, "create"):
                return True
            try:
                return self.read(name) == data
            except FileNotFoundError:  # S3 refuses one of two writes at the same moment
                time.sleep(0.1 * 2**pause)
        raise store_error(self.place / name, "the store refuses to write what is not there")

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Replaces a file if it is `old`; returns whether it is now `new`."""
        try:
            data, version = read_object(self.place / name)
            replaced = data == old and self._put(name, new, version)
            return replaced or self.read(name) == new
        except FileNotFoundError:  # some stores also say so of the version that is to be replaced
            return False

    def retire(self, name: str) -> None:
        """Does nothing, since it could delete the record of another run.  While shards are being
        replaced the old record does not count: their sizes differ from what it says."""

    def remove(self, name: str) -> None:
        url = self.place / name
        with suppress(FileNotFoundError), plain_errors(url):
            get_obstore().delete(connect(url, OF_OUTPUT), url.prefix)

    def _put(self, name: str, data: bytes, mode: str | dict[str, str]) -> bool:
        """False if the store refuses; it may have written the data all the same.  Raises OSError.

        mode: "overwrite", "create" (only if absent), or the version that is to be replaced.
        """
        url = self.place / name
        with plain_errors(url):
            try:
                store = connect(url, OF_OUTPUT)
                get_obstore().put(store, url.prefix, data, mode=mode, use_multipart=False)
            except Exception as error:
                if mode == "overwrite" or not is_refusal(error):
                    raise
                return False
        return True

    def try_writing(self) -> str:
        """Raises UsageError unless the store keeps what must not be overwritten."""
        name = f"{TRIAL}/{secrets.token_hex(8)}"
        try:
            refuses = self.create(name, b"first") and not self.create(name, b"second")
            refuses = refuses and not self._put(name, b"third", {"e_tag": '"of another version"'})
            unchanged = self.read(name) == b"first"
        finally:
            self.remove(name)
        if not (refuses and unchanged):
            raise UsageError(
                f"{self.place}: this store overwrites objects that it was asked to keep (it "
                "ignores If-None-Match or If-Match), so two runs could spoil each other's results; "
                "choose an --output in Amazon S3, Azure Blob Storage or another store that keeps "
                "them, or in a folder"
            )
        return ""

    def free_bytes(self) -> int | None:
        """None: a store does not say."""
        return None

    def open_zarr(self, name: str) -> Any:
        """A zarr group or array, to be read.  Raises whatever zarr does."""
        import zarr
        from zarr.storage import ObjectStore

        store = ObjectStore(connect(self.place, OF_OUTPUT), read_only=True)
        return zarr.open(store, path=(self.place / name).prefix, mode="r")
