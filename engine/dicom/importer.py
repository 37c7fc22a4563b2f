"""Makes an archive from a folder of DICOM images, and the map that leads from it back to them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.importer import check_output, check_range, create_array
from mcdiff_batch.engine.archive.metadata import CHUNK_LIMIT
from mcdiff_batch.engine.errors import ArchiveError, UsageError, explain
from mcdiff_batch.engine.files import clear_workplaces, workplace
from mcdiff_batch.engine.output.places import check_outside
from mcdiff_batch.engine.signals import deferring
from mcdiff_batch.engine.telemetry.pace import paced
from mcdiff_batch.engine.text import pluralise

from . import uid_map
from .cases import Case, GroupBy, Problem, Sorting, say, sort_folder
from .decoder import Decoder, decoding
from .reading import Refusal
from .uid_map import MappedCase, Source, UidMap

LISTED = 20  # problems in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to make an archive of DICOM images."""

    spacing_mm: tuple[float, float] | None = None  # y, x, of images that do not say their own
    intensity_range: tuple[float, float] | None = None  # black, white; None: as BitsStored says
    depths: int | None = None  # per case; None: as many as the case with the most
    group_by: GroupBy = "series"
    skip_refused: bool = False  # leave out cases with problems, instead of making nothing
    show_ids: bool = False  # name files in messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was made."""

    cases: int
    depths: int
    dtype: str
    grid: tuple[int, int]  # y, x px
    map: Path
    left_out: int  # cases or files with problems
    notes: tuple[str, ...]  # what somebody should know


def import_dicom(
    folder: Path,
    output: Path,
    options: Options,
    *,
    place: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Writes a new archive and its map of UIDs; both appear when they are complete.

    place: where the images are to be found later, if not in `folder`.
    tell: gets a line for each file that is refused, and now and then one on how far it is.
    Raises ArchiveError, UsageError, SpaceError.
    """
    check_outside(output)
    check_output(output, [folder])
    clear_workplaces(output)  # before the room on the disk is looked at
    map_path = uid_map.path_beside(output)
    sorting = sort_folder(folder, options.group_by, tell)
    cases = _accept(folder, sorting, options, tell)
    _check_map(map_path, cases)
    begun = False
    try:
        with workplace(output) as partial:
            with decoding() as decoder:
                written, problems = _write(partial, cases, sorting, options, decoder, tell)
            _judge(folder, sorting, problems, options, tell)
            document = _map(partial, written, folder, place)
            with deferring():  # with the map, or without it: never the archive alone
                begun = not map_path.exists()
                uid_map.write(map_path, uid_map.encode(document))
                partial.rename(output)
                begun = False
    except OSError as error:
        raise explain(error, output, also="choose another --output") from error
    finally:
        if begun:
            map_path.unlink(missing_ok=True)
    return Imported(
        cases=len(written),
        depths=_depths(cases, options),
        dtype=cases[0].layout.dtype,
        grid=_grid(cases),
        map=map_path,
        left_out=len(sorting.problems) + len(problems),
        notes=(*_notes(written, sorting, options), *open_archive(output).warnings),
    )


def _accept(
    folder: Path, sorting: Sorting, options: Options, tell: Callable[[str], None]
) -> tuple[Case, ...]:
    """The cases, if they can become one archive.  Raises ArchiveError."""
    _judge(folder, sorting, sorting.problems, options, tell)
    cases = sorting.cases
    if not cases:
        raise ArchiveError(
            f"{folder}: none of its {sorting.files} files can be used, expected DICOM images of "
            "the classes Ultrasound, Ultrasound Multi-frame or Secondary Capture"
        )
    whites = sorted({x.layout.white for x in cases})
    if len(whites) > 1:
        raise ArchiveError(
            f"{folder}: (0028,0101) BitsStored gives white as {whites[0]} in some cases and "
            f"{whites[-1]} in others, expected one value; import them into separate archives"
        )
    most = max(x.depths for x in cases)
    if options.depths is not None and options.depths < most:
        raise ArchiveError(
            f"{folder}: a case has {most} depths, expected at most {options.depths}; give a larger "
            "--depths"
        )
    size = (
        _depths(cases, options) * math.prod(_grid(cases)) * np.dtype(cases[0].layout.dtype).itemsize
    )
    if size > CHUNK_LIMIT:
        raise ArchiveError(
            f"{folder}: a case on a grid of {_grid(cases)} px takes {size} bytes, expected at most "
            f"{CHUNK_LIMIT}; import the largest images into an archive of their own"
        )
    return cases


def _judge(
    folder: Path,
    sorting: Sorting,
    problems: Iterable[Problem],
    options: Options,
    tell: Callable[[str], None],
) -> None:
    """Tells the problems; raises ArchiveError if there are any and they may not be left out."""
    lines = [f"{_where(x, folder, sorting, options)}: {x.text}" for x in problems]
    if len(lines) == 1 and not options.skip_refused:
        raise ArchiveError(f"{lines[0]}; --skip-refused leaves the case out")
    for line in lines[:LISTED]:
        tell(line)
    if len(lines) > LISTED:
        tell(f"... and {len(lines) - LISTED} more")
    if lines and not options.skip_refused:
        raise ArchiveError(
            f"{folder}: {len(lines)} of {sorting.files} files cannot be used; mend or move them, "
            "or leave out their cases with --skip-refused"
        )


def _where(problem: Problem, folder: Path, sorting: Sorting, options: Options) -> str:
    """A file by number, because its name may be that of a patient (P10)."""
    if options.show_ids:
        return str(problem.path)
    return f"file {problem.file} of {sorting.files} (--show-ids names it)"


def _depths(cases: Iterable[Case], options: Options) -> int:
    return options.depths or max(x.depths for x in cases)


def _grid(cases: Iterable[Case]) -> tuple[int, int]:
    boxes = [x.layout.box for x in cases]
    return max(x.height for x in boxes), max(x.width for x in boxes)


def _check_map(path: Path, cases: tuple[Case, ...]) -> None:
    """Raises UsageError where there is a map of other cases, maybe the only way back to them."""
    if path.is_file() and [x.case_id for x in uid_map.load(path).cases] == [x.key for x in cases]:
        return
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path}: exists already and maps other cases; keep it beside its archive, and choose "
            "another --output"
        )


def _write(
    path: Path,
    cases: tuple[Case, ...],
    sorting: Sorting,
    options: Options,
    decoder: Decoder,
    tell: Callable[[str], None],
) -> tuple[list[Case], list[Problem]]:
    """Writes the cases whose pixels can be decoded; stops at the first that cannot, unless told."""
    layout, depths, grid = cases[0].layout, _depths(cases, options), _grid(cases)
    limits = check_range(options.intensity_range) or (0.0, float(layout.white))
    meaning = {"schema": 1, "intensity_range": list(limits)}
    group = zarr.create_group(path, zarr_format=3, attributes={"mcdiff": meaning})
    pixels = create_array(group, "depths", layout.dtype, (len(cases), depths, *grid), 1)
    written: list[Case] = []
    problems: list[Problem] = []
    for case in paced(cases, len(cases), "cases written", tell):
        image = np.zeros((depths, *grid), layout.dtype)
        problem = _fill(image, case, sorting, decoder)
        if problem is None:
            pixels[len(written)] = image
            written.append(case)
        else:
            problems.append(problem)
            if not options.skip_refused:
                return written, problems
    if not written:
        raise ArchiveError("no case has pixels that can be decoded; export the images again")
    pixels.resize((len(written), depths, *grid))
    for name, values in _columns(written, depths, options).items():
        dtype = "string" if values.dtype == object else values.dtype.name
        create_array(group, name, dtype, values.shape, 1024)[:] = values
    return written, problems


def _fill(
    image: npt.NDArray[Any], case: Case, sorting: Sorting, decoder: Decoder
) -> Problem | None:
    """Puts the pixels of a case on the archive's grid [depth, y, x], or says what is wrong."""
    depth, box = 0, case.layout.box
    for header in case.images:
        try:
            planes = decoder.read(header)
        except (Refusal, OSError) as error:
            number = sorting.numbers[header.path]
            return Problem(file=number, path=header.path, text=say(error))
        image[depth : depth + len(planes), : box.height, : box.width] = planes
        depth += len(planes)
    return None


def _columns(cases: list[Case], depths: int, options: Options) -> dict[str, npt.NDArray[Any]]:
    columns: dict[str, npt.NDArray[Any]] = {
        "case_id": np.array([x.key for x in cases], object),
        "depth_present": np.array([[k < x.depths for k in range(depths)] for x in cases]),
        "extent": np.array([(x.layout.box.height, x.layout.box.width) for x in cases], np.int32),
    }
    spacing = [_spacing(x, options) for x in cases]
    if any(x is not None for x in spacing):
        columns["pixel_spacing_mm"] = np.array([x or (math.nan, math.nan) for x in spacing])
    return columns


def _spacing(case: Case, options: Options) -> tuple[float, float] | None:
    return case.layout.spacing_mm or options.spacing_mm


def _map(archive: Path, cases: list[Case], folder: Path, place: str | None) -> UidMap:
    return UidMap(
        archive=open_archive(archive).identity,
        place=place or str(folder.resolve()),
        cases=tuple(
            MappedCase(
                case_id=case.key,
                study=case.images[0].study,
                sources=tuple(
                    Source(
                        uid=x.uid,
                        sop_class=x.sop_class,
                        series=x.series,
                        file="" if place else str(x.path.relative_to(folder)),
                    )
                    for x in case.images
                ),
                rows=case.layout.rows,
                columns=case.layout.columns,
                box=case.layout.box,
            )
            for case in cases
        ),
    )


def _notes(cases: list[Case], sorting: Sorting, options: Options) -> Iterable[str]:
    for what, count in sorted(sorting.skipped.items()):
        yield f"{pluralise(count, 'file')} not imported: {what}"
    silent = sum(any(not x.burned_in for x in case.images) for case in cases)
    if silent:
        yield (
            f"in {pluralise(silent, 'case')} nothing says whether text is burned into the pixels "
            "((0028,0301) BurnedInAnnotation is absent); look at some"
        )
