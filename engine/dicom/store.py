"""Where results go: a folder, a DICOMweb server, or a PACS by C-STORE.  Twice is no error."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from pynetdicom import AE

from mcdiff_batch.engine.errors import McdiffError, SpaceError, UsageError
from mcdiff_batch.engine.output import durable

from .derived import encode
from .dicomweb import Server
from .headers import CLASSES

Objects = Mapping[str, FileDataset]  # by kind: image, segmentation, report
TRIES = 3
TIMEOUT = 60.0  # s
DUPLICATE = 0x0111
WARNINGS = (0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007)  # it was stored all the same

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # says what has its own message


class NotStored(Exception):
    """The results of one case were not taken; the message says why."""


class Destination(Protocol):
    """Takes the results of one case after the other."""

    def send(self, case: int, objects: Objects) -> None:
        """Returns when they are stored.  Raises NotStored, McdiffError."""


class Folder:
    """FOLDER/000012/image.dcm and so on; the folder is for its owner only, if it is new."""

    def __init__(self, root: Path) -> None:
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

    def close(self) -> None:
        durable.clear_scratch(self._root)


class Web:
    """A DICOMweb server, by STOW-RS."""

    def __init__(self, url: str) -> None:
        self._server = Server(url)

    def send(self, case: int, objects: Objects) -> None:
        by_uid = {str(x.SOPInstanceUID): x for x in objects.values()}
        for uid, reason in self._server.store([encode(x) for x in objects.values()]).items():
            sent = by_uid.get(uid)
            if sent is None or reason == DUPLICATE:
                continue
            if not self._server.holds(sent.StudyInstanceUID, sent.SeriesInstanceUID, uid):
                raise NotStored(f"the server did not take {_kind(sent)} (reason {reason:04X})")

    def close(self) -> None:
        self._server.close()


class Peer:
    """A PACS, by C-STORE over one association, which is opened again if it breaks."""

    def __init__(self, host: str, port: int, calling: str, called: str) -> None:
        self._address = host, port
        self._called = called
        self._entity = AE(ae_title=calling)
        self._entity.acse_timeout = self._entity.dimse_timeout = TIMEOUT
        self._entity.network_timeout = self._entity.connection_timeout = TIMEOUT
        for name in (*sorted(set(CLASSES.values())), SegmentationStorage, Comprehensive3DSRStorage):
            syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            self._entity.add_requested_context(name, syntaxes)
        self._association: Any = None

    def send(self, case: int, objects: Objects) -> None:
        for item in objects.values():
            status = self._store(item)
            if status & 0xFF00 == 0xA700:
                raise SpaceError(
                    f"{self._name}: is out of space (status {status:04X}); free some, run again"
                )
            if status not in (0, DUPLICATE, *WARNINGS):
                raise NotStored(f"the PACS did not take {_kind(item)} (status {status:04X})")

    def _store(self, item: FileDataset) -> int:
        """The status of one C-STORE."""
        for _ in range(TRIES):
            if self._association is None or not self._association.is_established:
                self._connect()
            answer = self._ask(item)
            if isinstance(answer, ValueError):
                raise NotStored(
                    f"the PACS does not accept {_kind(item)}; leave it out with --objects"
                ) from answer
            if isinstance(answer, Dataset) and "Status" in answer:
                return int(answer.Status)
            self._association.abort()
            self._association = None
        raise McdiffError(
            f"{self._name}: the connection broke {TRIES} times; run the same command again"
        )

    def _ask(self, item: FileDataset) -> Any:
        """The answer to one C-STORE, or the error.

        pynetdicom would wait for ever if the association ended at the wrong moment, so it waits in
        a thread, which may be left behind.
        """
        answers: SimpleQueue[Any] = SimpleQueue()
        association = self._association

        def send() -> None:
            try:
                answers.put(association.send_c_store(item))
            except Exception as error:  # of any kind, where the peer answers nonsense
                answers.put(error)

        Thread(target=send, daemon=True).start()
        try:
            return answers.get(timeout=2 * TIMEOUT)
        except Empty:
            return None

    def _connect(self) -> None:
        host, port = self._address
        self._association = self._entity.associate(host, port, ae_title=self._called)
        if self._association.is_rejected:
            raise UsageError(
                f"{self._name}: rejects the association; check --called-aet and --aet with the "
                "administrator of the PACS"
            )
        if not self._association.is_established:
            raise McdiffError(
                f"{self._name}: cannot be reached; check host, port and network, then run the same "
                "command again"
            )

    @property
    def _name(self) -> str:
        return "--store {}:{}".format(*self._address)

    def close(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()


def _kind(item: FileDataset) -> str:
    return str(item.SOPClassUID.name)


@contextmanager
def closing(destination: Folder | Web | Peer) -> Iterator[Destination]:
    try:
        yield destination
    finally:
        destination.close()
