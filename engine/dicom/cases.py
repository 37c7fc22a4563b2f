"""Groups DICOM images into cases, and decides about all of them before a pixel is read."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isclose
from pathlib import Path
from typing import Literal

from pydicom.datadict import tag_for_keyword

from mcdiff_batch.engine.archive.archive import DEPTHS_LIMIT
from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.telemetry.pace import paced
from mcdiff_batch.engine.text import natural_order

from .headers import Header, read_header
from .layout import CLASSES, SIDES, Layout
from .reading import Refusal, is_dicom, read_media_class

GroupBy = Literal["series", "study", "folder"]
KEYS: dict[str, Callable[[Header], Hashable]] = {
    "series": lambda x: (x.study, x.series),
    "study": lambda x: x.study,
    "folder": lambda x: x.path.parent,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The images of one scan, superficial depth first; their layouts are equal."""

    key: str  # the case id: says nothing of the patient to who has not the map
    images: tuple[Header, ...]
    layout: Layout

    @property
    def depths(self) -> int:
        return sum(x.frames for x in self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a file, and its case, cannot be used.  Sorted by file."""

    file: int  # in natural order of the paths, from 1
    path: Path
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """What a folder of DICOM files comes to."""

    numbers: dict[Path, int]  # of all files, in natural order of the paths, from 1
    cases: tuple[Case, ...]  # without those that have problems
    problems: tuple[Problem, ...]
    skipped: dict[str, int]  # files that are no images for us, by what they are

    @property
    def files(self) -> int:
        return len(self.numbers)


def sort_folder(
    folder: Path, group_by: GroupBy = "series", tell: Callable[[str], None] = lambda _: None
) -> Sorting:
    """Reads the headers of all files under `folder`.

    tell: gets a line on how far it is, now and then.
    Raises ArchiveError for a folder that cannot be looked through.
    """
    paths = sorted(_files(folder), key=lambda x: [natural_order(y) for y in x.parts])
    numbers = {path: k for k, path in enumerate(paths, 1)}
    headers: list[Header] = []
    texts: dict[Path, str] = {}
    skipped: Counter[str] = Counter()
    for path in paced(paths, len(paths), "headers read", tell):
        try:
            reason = _reason_to_skip(folder, path)
            header = None if reason else read_header(path)
        except (Refusal, OSError) as error:
            texts[path] = say(error)
            continue
        if header is None:
            skipped[reason or "results of mcdiff-batch"] += 1
        else:
            headers.append(header)
    headers, copies = _drop_copies(headers, texts)
    if copies:
        skipped["copies of another file"] = copies
    groups: dict[Hashable, list[Header]] = defaultdict(list)
    for header in headers:
        groups[KEYS[group_by](header)].append(header)
    cases = []
    for group in groups.values():
        try:
            cases.append(_case(group))
        except _GroupError as error:
            texts |= error.texts
    problems = (Problem(file=numbers[x], path=x, text=texts[x]) for x in texts)
    return Sorting(
        numbers=numbers,
        cases=tuple(sorted(cases, key=lambda x: x.key)),
        problems=tuple(sorted(problems, key=lambda x: x.file)),
        skipped=dict(skipped),
    )


def say(error: Refusal | OSError) -> str:
    """Why a file cannot be used, without its name, which may be that of a patient."""
    if isinstance(error, Refusal):
        return str(error)
    return f"cannot be read ({error.strerror}); check its permissions and the disk"


def _files(folder: Path) -> Iterator[Path]:
    """Everything that is no folder of its own; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise ArchiveError(
            f"{folder}: one of its folders cannot be read ({error.strerror}); ask its owner for "
            "permission"
        ) from error

    for root, folders, files in os.walk(folder, onerror=fail):
        yield from (Path(root, x) for x in files)
        yield from (x for x in (Path(root, y) for y in folders) if x.is_symlink())


def _reason_to_skip(folder: Path, path: Path) -> str:
    if any(x.startswith(".") for x in path.relative_to(folder).parts):
        return "hidden files"
    if path.is_dir():
        return "links to folders, which are not followed"
    if not path.is_file():
        return "pipes, other special files and broken links"
    if not is_dicom(path):
        return "files that are not DICOM"
    return "" if read_media_class(path) in CLASSES else "DICOM objects of other kinds"


def _drop_copies(headers: Sequence[Header], texts: dict[Path, str]) -> tuple[list[Header], int]:
    """Drops copies of a file; refuses files that differ and have the same SOPInstanceUID."""
    first: dict[str, Header] = {}
    kept: list[Header] = []
    for header in headers:
        before = first.setdefault(header.uid, header)
        if before is header:
            kept.append(header)
        elif file_sha256(before.path) != file_sha256(header.path):
            text = "(0008,0018) SOPInstanceUID is that of another file with other content"
            kept.append(replace(header, layout=None, problem=f"{text}; keep the right one"))
    return kept, len(headers) - len(kept)


class _GroupError(Exception):
    """Files that cannot be one case together; a text for each that is wrong."""

    def __init__(self, texts: dict[Path, str]) -> None:
        super().__init__()
        self.texts = texts


def _case(group: Sequence[Header]) -> Case:
    bad = {x.path: x.problem for x in group if x.layout is None}
    if bad:
        raise _GroupError(bad)
    first, *others = images = _in_order(group)
    for other in others:
        for name, found, expected in _facts(other, first):
            if found != expected and not _is_noise(found, expected):
                text = f"{name} differs from that of the first image of the case"
                raise _GroupError({other.path: f"{text}; export the scan again, or try --case-by"})
    depths = sum(x.frames for x in images)
    if depths > DEPTHS_LIMIT:
        text = f"the case has {depths} images, expected at most {DEPTHS_LIMIT} depths"
        raise _GroupError({first.path: f"{text}; try another --case-by"})
    assert first.layout is not None
    return Case(key=_key(images), images=tuple(images), layout=first.layout)


def _facts(one: Header, other: Header) -> list[tuple[str, object, object]]:
    """What the images of one case have in common: its name, and the value of both."""
    assert one.layout is not None
    assert other.layout is not None
    names = {
        "(0010,0020) PatientID": "patient",
        "(0010,0010) PatientName": "name",
        "(0020,000D) StudyInstanceUID": "study",
        "(0008,0016) SOPClassUID": "sop_class",
    }
    parts = {
        "(0028,0010) Rows": "rows",
        "(0028,0011) Columns": "columns",
        "(0018,6011) SequenceOfUltrasoundRegions": "box",
        "(0028,0030) PixelSpacing or (0018,602C) PhysicalDeltaX": "spacing_mm",
        "(0028,0101) BitsStored": "white",
        "(0020,0037) ImageOrientationPatient": "plane",
    }
    sides = [f"({x >> 16:04X},{x & 0xFFFF:04X}) {y}" for y in SIDES if (x := tag_for_keyword(y))]
    return [
        *((x, getattr(one, y), getattr(other, y)) for x, y in names.items()),
        *((x, getattr(one.layout, y), getattr(other.layout, y)) for x, y in parts.items()),
        *zip(sides, one.layout.sides, other.layout.sides, strict=True),
    ]


def _is_noise(found: object, expected: object) -> bool:
    """Whether two directions (cosines) are the same but for the last digits."""
    if not isinstance(found, tuple) or not isinstance(expected, tuple):
        return False
    return len(found) == len(expected) == 6 and all(
        isclose(x, y, abs_tol=0.001) for x, y in zip(found, expected, strict=True)
    )


def _in_order(group: Sequence[Header]) -> list[Header]:
    """By SeriesNumber and InstanceNumber.  Raises _GroupError where these do not give an order."""
    if len(group) == 1:
        return list(group)
    several = len({x.series for x in group}) > 1
    where: dict[tuple[int, ...], Header] = {}
    for header in group:
        series, instance = header.place
        if header.frames > 1:
            text = f"(0028,0008) NumberOfFrames is {header.frames} in a case of {len(group)} files"
            advice = "put each scan into a folder of its own and use --case-by folder"
            raise _GroupError(
                {header.path: f"{text}, expected one file, or one frame in each; {advice}"}
            )
        if instance is None or (several and series is None):
            tag = "(0020,0013) InstanceNumber" if instance is None else "(0020,0011) SeriesNumber"
            text = f"{tag} is absent or no number, expected one: it orders the depths"
            raise _GroupError({header.path: f"{text}; export the scan again"})
        place = (series or 0, instance) if several else (instance,)
        if place in where:
            text = f"(0020,0013) InstanceNumber is {instance}, as in another image of the case"
            advice = "export the scan again, or try --case-by"
            raise _GroupError({header.path: f"{text}, expected each once; {advice}"})
        where[place] = header
    return [where[x] for x in sorted(where)]


def _key(images: Sequence[Header]) -> str:
    return sha256("/".join(x.uid for x in images).encode()).hexdigest()[:16]
