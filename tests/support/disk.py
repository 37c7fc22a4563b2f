"""A disk that fails on demand: it sees every call of this process that touches files in a folder.

It stands in for the operating system, not for the product, so it knows nothing of how the product
writes.  Python meets the kernel in `os`: `_pyio`, Python's own copy of `io`, goes through `os` for
everything, and so do `pathlib` and `shutil`.
"""

# ruff: noqa: PTH100, PTH115, PTH118 - a Path would come back here through `os`

import _pyio
import builtins
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

RANDOM = re.compile(r"\b[0-9a-f]{16}\b")
ERRORS = {  # what each kind of call can fail with; the first ten change the disk
    "create": ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EMFILE"),
    "write": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", "ENOSPC", "EDQUOT", "EROFS"),
    "link": ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EPERM"),
    "mkdir": ("EIO", "ENOSPC", "EDQUOT", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "rmdir": ("EIO", "EROFS"),
    "truncate": ("EIO", "ENOSPC"),
    "close": ("EIO", "ENOSPC", "EDQUOT"),  # of a file that was written, as NFS reports it
    "open": ("EIO", "EMFILE", "ESTALE"),  # to read
    "read": ("EIO", "ESTALE"),
    "list": ("EIO",),
    "stat": ("EIO",),
}
CHANGES = tuple(ERRORS)[:10]
REPLACED = {  # function of `os`: method of Disk
    **{name: f"_{name}" for name in ("open", "close", "read", "pread", "write", "pwrite")},
    **{name: f"_{name}" for name in ("fsync", "rename", "link", "unlink", "mkdir", "rmdir")},
    **{name: f"_{name}" for name in ("ftruncate", "listdir", "scandir", "stat")},
    "fdatasync": "_fsync",
    "replace": "_rename",
    "remove": "_unlink",
}
REAL = {name: getattr(os, name) for name in REPLACED}
REAL_OPEN = io.open


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is about to be made.  Kind, name and number say which one, in any run."""

    kind: str  # a key of ERRORS
    name: str  # of the file, in the folder; the id of this process is written PID, and what it
    # draws by chance RANDOM
    number: int  # among the calls of this kind to this file, from 1
    descriptor: int = field(default=-1, compare=False)
    data: bytes = field(default=b"", compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} #{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A call that has changed the disk."""

    kind: str
    name: str
    other: str = ""  # where a rename or a link leads
    data: bytes = b""
    offset: int = 0  # of a write; the new size of a file that is cut


Heed = Callable[["Disk", Call], int | None]
"""Hears of each call before it is made.  It may raise, kill this process, or return how many bytes
of a write the disk takes; None: all of them."""


def ignore(disk: "Disk", call: Call) -> None:
    """A disk without faults."""


class Disk:
    """All calls that concern files in `root`, while it is `mounted`.

    It does not wait for the real disk: an fsync that succeeds is only noted.
    """

    def __init__(self, root: Path, heed: Heed = ignore) -> None:
        self.root, self.heed = str(root.resolve()), heed
        self.power = True  # once it is off, changes are no longer noted
        self.before_kill: Callable[[], None] = lambda: None  # what a heed calls before it kills
        self.calls: list[Call] = []
        self.changes: list[Change] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._writers: set[int] = set()  # descriptors that are open for writing
        self._mutex = threading.RLock()

    @contextmanager
    def mounted(self) -> Iterator["Disk"]:
        functions = {name: getattr(self, method) for name, method in REPLACED.items()}
        with (
            mock.patch.multiple(os, **functions),
            mock.patch.object(io, "open", self._open_file),
            mock.patch.object(builtins, "open", self._open_file),
        ):
            yield self

    def _name(self, file: Any, folder: int | None = None) -> str | None:
        """Name of a file in the folder, from its path or descriptor; None for any other file."""
        try:
            if isinstance(file, int):
                path = os.readlink(f"/proc/self/fd/{file}")
            else:
                base = "" if folder is None else os.readlink(f"/proc/self/fd/{folder}")
                path = os.path.abspath(os.path.join(base, os.fsdecode(file)))
        except (OSError, TypeError):
            return None
        if path != self.root and not path.startswith(f"{self.root}/"):
            return None
        return path[len(self.root) + 1 :] or "."

    def _announce(self, kind: str, name: str, descriptor: int = -1, data: bytes = b"") -> Any:
        name = RANDOM.sub("RANDOM", name.replace(str(os.getpid()), "PID"))
        with self._mutex:
            self._counts[kind, name] += 1
            number = self._counts[kind, name]
            call = Call(kind=kind, name=name, number=number, descriptor=descriptor, data=data)
            self.calls.append(call)
        return self.heed(self, call)

    def _note(self, kind: str, name: str, **more: Any) -> None:
        if self.power:
            self.changes.append(Change(kind=kind, name=name, **more))

    # --- in the place of `open` and of the functions of `os`

    def _open_file(self, file: Any, *args: Any, **options: Any) -> Any:
        real = _pyio.open if self._name(file) is not None else REAL_OPEN
        return real(file, *args, **options)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = self._name(path, dir_fd)
        writes = flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
        if name is not None:
            self._announce("create" if writes else "open", name)
        new = name is not None and not os.path.lexists(os.path.join(self.root, name))
        descriptor = int(REAL["open"](path, flags, mode, dir_fd=dir_fd))
        if name is not None and writes:
            self._writers.add(descriptor)
            if new:
                self._note("create", name)
            elif flags & os.O_TRUNC:
                self._note("truncate", name)
        return descriptor

    def _close(self, descriptor: int) -> None:
        name = self._name(descriptor) if descriptor in self._writers else None
        self._writers.discard(descriptor)
        try:
            if name is not None:
                self._announce("close", name)
        finally:
            REAL["close"](descriptor)  # after an error too, as Linux does

    def _read(self, descriptor: int, length: int) -> bytes:
        if (name := self._name(descriptor)) is not None:
            self._announce("read", name)
        return bytes(REAL["read"](descriptor, length))

    def _pread(self, descriptor: int, length: int, offset: int) -> bytes:
        if (name := self._name(descriptor)) is not None:
            self._announce("read", name)
        return bytes(REAL["pread"](descriptor, length, offset))

    def _write(self, descriptor: int, data: Any) -> int:
        name, data = self._name(descriptor), bytes(data)
        if name is not None:
            data = data[: self._announce("write", name, descriptor, data)]
        size = int(REAL["write"](descriptor, data))
        if name is not None:
            offset = os.lseek(descriptor, 0, os.SEEK_CUR) - size
            self._note("write", name, data=data[:size], offset=offset)
        return size

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        name, data = self._name(descriptor), bytes(data)
        if name is not None:
            data = data[: self._announce("write", name, descriptor, data)]
        size = int(REAL["pwrite"](descriptor, data, offset))
        if name is not None:
            self._note("write", name, data=data[:size], offset=offset)
        return size

    def _fsync(self, file: Any) -> None:
        descriptor = file if isinstance(file, int) else int(file.fileno())
        if (name := self._name(descriptor)) is not None:
            self._announce("fsync", name, descriptor)
            self._note("fsync", name)

    def _sync(self) -> None:
        self._note("sync", ".")

    def _ftruncate(self, descriptor: int, size: int) -> None:
        if (name := self._name(descriptor)) is not None:
            self._announce("truncate", name, descriptor)
            self._note("truncate", name, offset=size)
        REAL["ftruncate"](descriptor, size)

    def _rename(self, source: Any, target: Any, **folders: Any) -> None:
        name = self._name(target, folders.get("dst_dir_fd"))
        if name is not None:
            self._announce("rename", name)
        before = self._name(source, folders.get("src_dir_fd"))
        REAL["rename"](source, target, **folders)
        if name is not None and before is not None:
            self._note("rename", before, other=name)

    def _link(self, source: Any, target: Any, **more: Any) -> None:
        name, before = self._name(target), self._name(source)
        if name is not None:
            self._announce("link", name)
        REAL["link"](source, target, **more)
        if name is not None and before is not None:
            self._note("link", before, other=name)

    def _change(self, kind: str, path: Any, *args: Any, **folder: Any) -> None:
        name = self._name(path, folder.get("dir_fd"))
        if name is not None:
            self._announce(kind, name)
        REAL[kind](path, *args, **folder)
        if name is not None:
            self._note(kind, name)

    def _unlink(self, path: Any, **folder: Any) -> None:
        self._change("unlink", path, **folder)

    def _mkdir(self, path: Any, *mode: int, **folder: Any) -> None:
        self._change("mkdir", path, *mode, **folder)

    def _rmdir(self, path: Any, **folder: Any) -> None:
        self._change("rmdir", path, **folder)

    def _listdir(self, path: Any = ".") -> Any:
        if (name := self._name(path)) is not None:
            self._announce("list", name)
        return REAL["listdir"](path)

    def _scandir(self, path: Any = ".") -> Any:
        if (name := self._name(path)) is not None:
            self._announce("list", name)
        return REAL["scandir"](path)

    def _stat(self, path: Any, **more: Any) -> Any:
        if not isinstance(path, int) and (name := self._name(path, more.get("dir_fd"))) is not None:
            self._announce("stat", name)
        return REAL["stat"](path, **more)
