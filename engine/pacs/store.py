"""Where results go: a folder, a DICOMweb server, or a PACS by C-STORE.  Twice is no error."""

import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from mcdiff_batch.engine.dicom.derived import encode
from mcdiff_batch.engine.dicom.layout import CLASSES
from mcdiff_batch.engine.errors import McdiffError, SpaceError, UsageError
from mcdiff_batch.engine.output import durable
from mcdiff_batch.engine.output.places import check_outside

from .dicomweb import Server

Objects = Mapping[str, FileDataset]  # by kind: image, segmentation, report
TRIES = 3
TIMEOUT = 60.0  # s without an answer
SLOWEST = 20_000  # bytes/s; what sending may take besides
DUPLICATE = 0x0111
WARNINGS = (0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007)  # it was stored all the same

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # says what has its own message


class NotStored(Exception):
    """The results of one case were not taken; the message says why."""


class Destination(Protocol):
    """Takes the results of one case after the other."""

    def send(self, case: int, objects: Objects) -> None:
        """Returns when they are stored.  Raises NotStored, McdiffError."""

    def shows(self, case: int) -> bool:
        """Whether it can be seen here that an earlier export left results of a case."""


class Folder:
    """FOLDER/000012/image.dcm and so on; the folder is for its owner only, if it is new."""

    def __init__(self, root: Path) -> None:
        check_outside(root, "choose another --to")
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--to {root}: cannot be a folder ({error.strerror})") from error
        self._root = root

    def send(self, case: int, objects: Objects) -> None:
        files = {f"{case:06d}/{kind}.dcm": encode(x) for kind, x in objects.items()}
        for name, data in files.items():
            path = self._root / name
            if path.is_file() and path.read_bytes() == data:
                continue
            if path.exists():
                raise UsageError(
                    f"{path}: is from another export, expected a folder without it; choose another "
                    "--to"
                )
            durable.write(self._root, name, data)

    def shows(self, case: int) -> bool:
        return (self._root / f"{case:06d}").is_dir()

    def close(self) -> None:
        durable.clear_scratch(self._root)


class Web:
    """A DICOMweb server, by STOW-RS."""

    def __init__(self, url: str) -> None:
        self._server = Server(url)

    def send(self, case: int, objects: Objects) -> None:
        taken, refused = self._server.store([encode(x) for x in objects.values()])
        for item in objects.values():
            uid = str(item.SOPInstanceUID)
            if uid in taken or refused.get(uid) == DUPLICATE:
                continue
            if not self._server.holds(item.StudyInstanceUID, item.SeriesInstanceUID, uid):
                why = f" (reason {refused[uid]:04X})" if uid in refused else ""
                advice = "look at its log and its free space"
                raise NotStored(f"the server did not take {_kind(item)}{why}; {advice}")

    def shows(self, case: int) -> bool:
        return False  # the UIDs depend on the header of that time

    def close(self) -> None:
        self._server.close()


class Peer:
    """A PACS, by C-STORE over one association, which is opened again if it breaks.

    pynetdicom waits for ever where a peer falls silent at the wrong moment.  So each call to it
    has a time limit here, and a connection that has used it up is cut, which ends its threads.
    """

    def __init__(self, host: str, port: int, calling: str, called: str) -> None:
        self._address = host, port
        self._called = called
        try:
            self._entity = AE(ae_title=calling)
            self._entity.ae_title = called  # checks it too
            self._entity.ae_title = calling
        except ValueError as error:
            raise UsageError(
                f"--aet {calling}, --called-aet {called}: expected 1 to 16 characters of ASCII"
            ) from error
        self._entity.acse_timeout = self._entity.network_timeout = TIMEOUT
        self._entity.connection_timeout = TIMEOUT
        for name in (*sorted(set(CLASSES.values())), SegmentationStorage, Comprehensive3DSRStorage):
            syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            self._entity.add_requested_context(name, syntaxes)
        self._association: Any = None
        self._line: socket.socket | None = None
        self._reader: Thread | None = None  # of pynetdicom; the process could not end before it

    def send(self, case: int, objects: Objects) -> None:
        for item in objects.values():
            status = self._store(item)
            if status & 0xFF00 == 0xA700:
                raise SpaceError(
                    f"{self._name}: is out of space (status {status:04X}); free some, run again"
                )
            if status not in (0, DUPLICATE, *WARNINGS):
                raise NotStored(f"the PACS did not take {_kind(item)} (status {status:04X})")

    def shows(self, case: int) -> bool:
        return False  # C-STORE does not say

    def _store(self, item: FileDataset) -> int:
        """The status of one C-STORE."""
        patience = TIMEOUT + len(item.get("PixelData", b"")) / SLOWEST
        for _ in range(TRIES):
            if self._association is None or not self._association.is_established:
                self._connect()
            if self._association is None:
                continue
            self._association.dimse_timeout = patience
            answer = self._call(patience + TIMEOUT, self._association.send_c_store, item)
            if isinstance(answer, ValueError):
                raise NotStored(
                    f"the PACS does not accept {_kind(item)}; leave it out with --objects"
                ) from answer
            if isinstance(answer, Dataset) and "Status" in answer:
                return int(answer.Status)
            self._cut()
        raise McdiffError(
            f"{self._name}: cannot be reached or breaks the connection, {TRIES} times; check host, "
            "port and network, then run the same command again"
        )

    def _connect(self) -> None:
        """Opens the association, if that is possible now."""
        host, port = self._address
        handlers = [(evt.EVT_CONN_OPEN, self._take_line)]
        found = self._call(
            3 * TIMEOUT,
            *(self._entity.associate, host, port),
            ae_title=self._called,
            evt_handlers=handlers,
        )
        if getattr(found, "is_established", False):
            self._association = found
            return
        self._cut()
        if getattr(found, "is_rejected", False):
            raise UsageError(
                f"{self._name}: rejects the association; check --called-aet and --aet with the "
                "administrator of the PACS"
            )

    def _take_line(self, event: Any) -> None:
        """Gives the connection a time limit; pynetdicom gives it none."""
        self._reader, self._line = event.assoc.dul, event.assoc.dul.socket.socket
        assert self._line is not None
        self._line.settimeout(TIMEOUT)

    def _call(self, seconds: float, function: Callable[..., Any], *words: Any, **more: Any) -> Any:
        """What a function returns, or the error that it raises; None if it takes longer."""
        answers: SimpleQueue[Any] = SimpleQueue()

        def work() -> None:
            try:
                answers.put(function(*words, **more))
            except Exception as error:  # of any kind, where the peer answers nonsense
                answers.put(error)

        Thread(target=work, daemon=True).start()
        with suppress(Empty):
            return answers.get(timeout=seconds)
        return None

    def _cut(self) -> None:
        """Closes the connection, after the end of the thread that reads from it."""
        if self._line is not None and self._reader is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
            self._reader.join(TIMEOUT)
            self._line.close()
        self._association = self._line = self._reader = None

    @property
    def _name(self) -> str:
        return "--store {}:{}".format(*self._address)

    def close(self) -> None:
        if self._association is not None and self._association.is_established:
            self._call(2 * TIMEOUT, self._association.release)
        self._cut()


def _kind(item: FileDataset) -> str:
    return str(item.SOPClassUID.name)
