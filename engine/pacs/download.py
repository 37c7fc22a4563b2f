"""Fetches images from a DICOMweb server into a folder; what is there is not fetched again."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.dicom.layout import CLASSES
from mcdiff_batch.engine.dicom.reading import MAGIC, is_uid
from mcdiff_batch.engine.errors import McdiffError, UsageError
from mcdiff_batch.engine.output import durable
from mcdiff_batch.engine.telemetry.pace import paced

from .dicomweb import Server, series_path, value


def download(
    server: Server,
    matches: Mapping[str, str],
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Makes `folder` hold the ultrasound images of the studies that match, and no other files.

    matches: attributes of a study, as QIDO-RS has them, such as StudyDate: 20260101-20260131.
    tell: gets a line on how far it is, now and then.
    Returns their number.  Raises McdiffError, UsageError, SpaceError.
    """
    wanted = {f"{uid}.dcm": (study, series, uid) for study, series, uid in _find(server, matches)}
    if not wanted:
        return 0
    _claim(folder, wanted)
    missing = {name: where for name, where in wanted.items() if not (folder / name).is_file()}
    tell(f"{len(wanted)} images match, {len(missing)} are still to be fetched")
    for name, where in paced(missing.items(), len(missing), "images fetched", tell):
        data = server.fetch(*where)
        if data[MAGIC : MAGIC + 4] != b"DICM":
            raise McdiffError(f"{server.url}: sent something that is not a DICOM file")
        durable.write(folder, name, data)
    return len(wanted)


def _claim(folder: Path, wanted: Collection[str]) -> None:
    """Makes the folder, or takes that of an earlier try.  Raises UsageError for any other."""
    if folder.is_dir() and not folder.is_symlink():
        durable.clear_scratch(folder)
        if all(x.name in wanted for x in folder.iterdir()):
            return
    elif not folder.exists() and not folder.is_symlink():
        folder.mkdir(mode=0o700)
        return
    raise UsageError(
        f"{folder}: holds other files than the images that match, expected nothing, or what an "
        "earlier try of this import left; move or delete it"
    )


def _find(server: Server, matches: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Study, series and instance of every image of a class that can be imported."""
    for study in _uids(server, "/studies", matches, "0020000D"):
        for series in _uids(server, f"/studies/{study}/series", {}, "0020000E"):
            for answer in server.query(f"{series_path(study, series)}/instances", {}):
                if str(value(answer, "00080016")) in CLASSES:
                    yield study, series, _uid(server, answer, "00080018")


def _uids(server: Server, path: str, matches: Mapping[str, str], tag: str) -> list[str]:
    return [_uid(server, answer, tag) for answer in server.query(path, matches)]


def _uid(server: Server, answer: dict[str, Any], tag: str) -> str:
    """A UID from the server, which becomes part of an address and of a file name."""
    uid = str(value(answer, tag) or "")
    if not is_uid(uid):
        raise McdiffError(f"{server.url}: sent a UID ({tag[:4]},{tag[4:]}) that is none")
    return uid
