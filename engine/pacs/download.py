"""Fetches images from a DICOMweb server into a folder; what is there is not fetched again."""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcdiff_batch.engine.dicom.layout import CLASSES
from mcdiff_batch.engine.dicom.reading import MAGIC, Refusal, read
from mcdiff_batch.engine.errors import ArchiveError, McdiffError, UsageError
from mcdiff_batch.engine.output import durable
from mcdiff_batch.engine.telemetry.pace import paced

from .dicomweb import Answer, Listing, Server, series_path, value

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"  # UIDs
SOP_CLASS, STUDY_DATE = "00080016", "00080020"
SERIES_OF_STUDY, IMAGES_OF_STUDY, IMAGES_OF_SERIES = "00201206", "00201208", "00201209"  # numbers
LISTED = 20  # studies with gaps, in messages

Wanted = dict[str, tuple[str, str, str]]  # name of a file -> study, series, instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a download came to."""

    images: int
    gaps: int  # studies that were left out, and 1 if the list of the studies is not whole


def download(
    server: Server,
    matches: Mapping[str, str],
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
    *,
    skip_gaps: bool = False,
    show_ids: bool = False,
) -> Fetched:
    """Makes `folder` hold the ultrasound images of the studies that match, and no other files.

    matches: attributes of a study, as QIDO-RS has them, such as StudyDate: 20260101-20260131.
    tell: gets a line on how far it is, now and then.
    skip_gaps: leaves out the studies that the server does not give completely.
    Raises ArchiveError for what is not complete, McdiffError, UsageError, SpaceError.
    """
    wanted, gaps = _find(server, matches, tell, show_ids)
    _judge(server, gaps, skip_gaps, tell)
    if not wanted:
        return Fetched(images=0, gaps=len(gaps))
    _claim(folder, wanted)
    missing = {name: where for name, where in wanted.items() if not (folder / name).is_file()}
    tell(f"{len(wanted)} images match, {len(missing)} are still to be fetched")
    for name, where in paced(missing.items(), len(missing), "images fetched", tell):
        data = server.fetch(*where)
        if data[MAGIC : MAGIC + 4] != b"DICM":
            raise McdiffError(f"{server.url}: sent something that is not a DICOM file")
        if _read_uid(data) not in (where[-1], None):
            raise McdiffError(
                f"{server.url}: sent another image than the one that was asked for; look at the "
                "server, then run the same command again"
            )
        durable.write(folder, name, data)
    return Fetched(images=len(wanted), gaps=len(gaps))


def _read_uid(data: bytes) -> str | None:
    """SOPInstanceUID of a file; None where it cannot be read, which the import says later."""
    try:
        return str(read(data, ["SOPInstanceUID"]).get("SOPInstanceUID", ""))
    except Refusal:
        return None


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


def _find(
    server: Server, matches: Mapping[str, str], tell: Callable[[str], None], show_ids: bool
) -> tuple[Wanted, list[str]]:
    """The images of complete studies that can be imported, and a line for each gap."""
    studies = server.query("/studies", matches, STUDY)
    if not studies.paged and studies.whole:
        studies.whole = not _names_more(server, matches, studies)
    wanted: Wanted = {}
    gaps = []
    if text := _gap(studies, None, "studies"):
        gaps.append(f"{text}; narrow --match, for example to the StudyDate of one day")
    elif not studies.paged:
        tell(
            f"note: the server names {len(studies.found)} studies, and repeats them when it is "
            "asked for further ones; if there should be more, narrow --match"
        )
    for number, (study, answer) in enumerate(studies.found.items(), 1):
        images, text = _find_in_study(server, study, answer)
        if text:
            name = study if show_ids else f"{number} of {len(studies.found)}"
            gaps.append(f"study {name}: {text}; run the same command again when it is complete")
        else:
            wanted |= images
    return wanted, gaps


def _names_more(server: Server, matches: Mapping[str, str], studies: Listing) -> bool:
    """Whether a server without pages, which may have a limit of its own, names other studies when
    it is asked for those before and after a day in the middle."""
    dates = sorted(str(value(x, STUDY_DATE) or "") for x in studies.found.values())
    middle = dates[len(dates) // 2] if dates else ""
    if not re.fullmatch("[0-9]{8}", middle) or {"StudyDate", STUDY_DATE} & matches.keys():
        return False
    for span in (f"-{middle}", f"{middle}-"):
        with suppress(McdiffError):  # a server that knows no spans
            half = server.query("/studies", {**matches, "StudyDate": span}, STUDY)
            if half.found.keys() - studies.found.keys():
                return True
    return False


def _find_in_study(server: Server, study: str, answer: Answer) -> tuple[Wanted, str]:
    """The images of a study that can be imported; a text if the server does not name all."""
    wanted: Wanted = {}
    count = 0
    several = server.query(f"/studies/{study}/series", {}, SERIES)
    text = _gap(several, _number(answer, SERIES_OF_STUDY), "series")
    for series, about in several.found.items():
        images = server.query(f"{series_path(study, series)}/instances", {}, INSTANCE)
        text = text or _gap(images, _number(about, IMAGES_OF_SERIES), "images of a series")
        count += len(images.found)
        for uid, image in images.found.items():
            if str(value(image, SOP_CLASS)) in CLASSES:
                wanted[f"{uid}.dcm"] = (study, series, uid)
    expected = _number(answer, IMAGES_OF_STUDY)
    if not text and expected and count < expected:
        text = f"the server names {count} of its {expected} images"
    return wanted, text


def _gap(listing: Listing, expected: int | None, what: str) -> str:
    """What is not in a listing, in words; "" where nothing is missing."""
    count = len(listing.found)
    if expected and count <= expected:
        return "" if count == expected else f"the server names {count} of its {expected} {what}"
    return "" if listing.whole else f"the server names {count} {what}, and there may be more"


def _number(answer: Answer, tag: str) -> int | None:
    """A number of parts; None where the server does not say it."""
    text = str(value(answer, tag))
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _judge(server: Server, gaps: list[str], skip: bool, tell: Callable[[str], None]) -> None:
    """Tells the gaps; raises ArchiveError if there are any and they may not be left out."""
    advice = "--skip-refused imports what is complete"
    if len(gaps) == 1 and not skip:
        raise ArchiveError(f"{server.url}: {gaps[0]}; {advice}")
    for line in gaps[:LISTED]:
        tell(line)
    if len(gaps) > LISTED:
        tell(f"... and {len(gaps) - LISTED} more")
    if gaps and not skip:
        raise ArchiveError(f"{server.url}: does not give all of its images; {advice}")
