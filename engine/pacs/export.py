"""Turns the output of a run into DICOM, case by case, and sends it where it is wanted."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydicom.dataset import Dataset, FileDataset

from mcdiff_batch.engine.dicom.annotation import make_report, make_segmentation
from mcdiff_batch.engine.dicom.derived import (
    COPIED,
    Provenance,
    Results,
    library_versions,
    make_image,
    make_subject,
)
from mcdiff_batch.engine.dicom.reading import Refusal, read, refuse_damage
from mcdiff_batch.engine.dicom.uid_map import MappedCase, UidMap
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.columns import lacks_spacing
from mcdiff_batch.engine.image.frame import Pixels, from_frame, nearest_from_frame
from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import ledger, runs, verdicts
from mcdiff_batch.engine.output.ledger import DONE, Entry
from mcdiff_batch.engine.output.runs import Run
from mcdiff_batch.engine.output.shards import FOLDER, IMAGES, hash_pixels
from mcdiff_batch.engine.output.units import parse_selection
from mcdiff_batch.engine.telemetry.machine import package_version
from mcdiff_batch.engine.telemetry.pace import paced

from .dicomweb import Server
from .store import Destination, NotStored

KINDS = ("image", "segmentation", "report")
FORMAT = 1  # changes when the same run is written differently
CHECKED = ("SOPInstanceUID", "StudyInstanceUID", "Rows", "Columns")


@dataclass(slots=True)
class Exported:
    """How many cases were treated how."""

    sent: int = 0
    objects: int = 0
    without_spacing: int = 0  # of those sent: no report, because the size of a px is unknown
    without_angle: int = 0  # of those sent: no report, because no angle is defined
    rejected: int = 0  # held back, because a review rejected them
    left: list[int] = field(default_factory=list)  # of these, those that an earlier export wrote
    unfinished: int = 0  # failed, skipped or open in the run
    failed: dict[int, str] = field(default_factory=dict)  # case -> why


def export(
    output: Path,
    uids: UidMap,
    destination: Destination,
    *,
    source: str | None = None,
    cases: str | None = None,
    kinds: tuple[str, ...] = KINDS,
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Sends the results of every finished case that no review has rejected.

    source: the folder or server with the images, if they are not where the map says.
    tell: gets a line on how far it is, now and then.
    Raises UsageError, McdiffError.
    """
    run = runs.load_existing(output)
    _check_map(output, run, uids)
    rejects = _read_rejects(output)
    selection = parse_selection(cases or run.settings.cases, len(uids.cases))
    group = zarr.open_group(output / FOLDER, mode="r")
    about = _provenance(run)
    counts = Exported()
    with closing(_Sources(source or uids.place)) as sources:
        entries = (x for x in _entries(output) if x.case in selection)
        for entry in paced(entries, len(selection), "cases looked at", tell):
            if entry.status != DONE:
                counts.unfinished += 1
            elif rejects.get(entry.case) == entry.pixels:
                counts.rejected += 1
                if destination.shows(entry.case):
                    counts.left.append(entry.case)
            else:
                try:
                    case = uids.cases[entry.case]
                    objects = _make(group, entry, case, sources, run, about, kinds)
                    destination.send(entry.case, objects)
                except (Refusal, NotStored) as error:
                    counts.failed[entry.case] = str(error)
                else:
                    counts.sent += 1
                    counts.objects += len(objects)
                    if "report" in kinds and "report" not in objects:
                        blank = lacks_spacing(entry.quality)
                        counts.without_spacing += blank
                        counts.without_angle += not blank
    return counts


def _check_map(output: Path, run: Run, uids: UidMap) -> None:
    if run.settings.archive != uids.archive:
        raise UsageError(
            f"{output}: its archive is not the one that the map of UIDs belongs to; name the right "
            "map with --map"
        )


def _entries(output: Path) -> Iterator[Entry]:
    for unit in ledger.list_units(output):
        try:
            yield from ledger.read(output, unit).cases
        except ledger.DamagedRecord as error:
            raise UsageError(
                f"{output / ledger.file_name(unit)}: is damaged; see `mcdiff-batch verify {output}`"
            ) from error


def _read_rejects(output: Path) -> dict[int, str]:
    """The hash of the pixels that were rejected, by case.  A verdict on other pixels is void."""
    latest = verdicts.read(output).latest
    return {case: x.pixels for case, x in latest.items() if x.verdict == verdicts.REJECT}


def _provenance(run: Run) -> Provenance:
    parts = json.dumps([FORMAT, library_versions(), asdict(run.settings)], sort_keys=True)
    return Provenance(
        version=package_version("mcdiff-batch"),
        bundle=str(run.contract.get("name", "")),
        bundle_hash=run.settings.bundle,
        fingerprint=sha256(parts.encode()).hexdigest(),
    )


class _Sources:
    """Where the headers of the source images are read again: names and corrections may be new."""

    def __init__(self, place: str) -> None:
        self._place = place
        web = place.startswith(("http://", "https://"))
        self._server = Server(place) if web else None

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def header(self, case: MappedCase) -> Dataset:
        """The elements of COPIED of a case's first image.  Raises Refusal."""
        first = case.sources[0]
        names = (*COPIED, *CHECKED)
        if self._server is not None:
            found = read(self._server.fetch(case.study, first.series, first.uid), names)
        else:
            try:
                found = read(Path(self._place) / first.file, names)
            except OSError as error:
                raise Refusal(
                    f"its source image cannot be read ({error.strerror}); name the folder with "
                    "--source"
                ) from error
        expected = (first.uid, case.study, case.rows, case.columns)
        if tuple(found.get(x) for x in CHECKED) != expected:
            raise Refusal("its source is another image than at the import; name the right --source")
        return found


def _make(
    group: zarr.Group,
    entry: Entry,
    case: MappedCase,
    sources: _Sources,
    run: Run,
    about: Provenance,
    kinds: tuple[str, ...],
) -> dict[str, FileDataset]:
    """The objects of one case.  Raises Refusal."""
    images = _read_images(group, entry)
    if entry.extent != (case.box.height, case.box.width):
        raise Refusal(f"the run has {entry.extent} px of it, the map {case.box}")
    results = Results(
        image=_place(images["enhanced"], case, run, label=False),
        labels=_place(images["label"], case, run, label=True),
        classes=tuple(map(str, run.contract.get("classes", ()))),
        quality=entry.quality,
        flags=tuple(explain(entry.flags, entry.quality)),
    )
    header = sources.header(case)
    with refuse_damage("its source has a header that a result cannot be filed under"):
        subject = make_subject(case, header, entry.pixels, about)
        image = make_image(subject, results, about)
        objects: dict[str, FileDataset | None] = {"image": image}
        if "segmentation" in kinds:
            objects["segmentation"] = make_segmentation(image, subject, results, about)
        if "report" in kinds:
            objects["report"] = make_report(image, subject, results, about)
    return {name: x for name, x in objects.items() if x is not None and name in kinds}


def _read_images(group: zarr.Group, entry: Entry) -> dict[str, Pixels]:
    """The images of a case, as they were committed."""
    images: dict[str, Pixels] = {}
    for name in (x for x in IMAGES if x in group):
        array: Any = group[name]
        try:
            images[name] = np.asarray(array[entry.case])
        except Exception:  # zarr and its codecs raise any of many errors
            break
    if hash_pixels(images.values()) != entry.pixels:
        raise Refusal("its pixels are not as they were committed; see `mcdiff-batch verify`")
    return images


def _place(image: Pixels, case: MappedCase, run: Run, *, label: bool) -> Pixels:
    """An image of the run on the whole grid of the source; 0 outside the scan."""
    box = case.box
    extent = (box.height, box.width)
    if run.settings.grid == "input":
        inner = image[: box.height, : box.width]
    elif label:
        inner = nearest_from_frame(image, extent)
    else:
        inner = np.rint(from_frame(image, extent)).astype(np.uint8)
    out = np.zeros((case.rows, case.columns), np.uint8)
    out[box.top : box.top + box.height, box.left : box.left + box.width] = inner
    return out
