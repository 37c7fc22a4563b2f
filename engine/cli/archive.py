"""Commands for archives: `check` and `import`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.cloud.place import Place, parse_place
from mcdiff_batch.engine.errors import ArchiveError, Exit
from mcdiff_batch.engine.signals import end_with
from mcdiff_batch.engine.text import make_printable

from . import options
from .dicom import import_from_dicom, import_options

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.archive.audit import Audit, Problem

LISTED = 20  # problems on a terminal; JSON has them all
ID_LENGTH = 80  # characters of a case id on a terminal


@click.command()
@click.argument("archive", type=parse_place, metavar="ARCHIVE")
@options.as_json
@options.show_ids
def check(archive: Place, as_json: bool, show_ids: bool) -> int:
    """Check every case of an archive.

    ARCHIVE is a folder or an address (s3://, gs://, az://, https://).  The command reads all of
    it and writes nothing.  Exit codes: 0 all cases can be used, 3 some cannot, 4 the archive
    cannot be used at all.

    An archive is a zarr group (format 2 or 3).  Only depths is required.

    \b
      depths            (case, depth, y, x), u1, u2, f2 or f4: the images,
                        superficial depth first; bone is dark
      case_id           (case), text or integer: name of the case
      optimal_depth     (case), integer, from 0: the depth a rater would choose
      depth_present     (case, depth), bool: false where a depth was not taken
      extent            (case, 2), y and x in px: what the scan fills
      pixel_spacing_mm  (case, 2), y and x: size of a pixel in mm

    The attribute mcdiff of the group has intensity_range ([black, white]; default 0 to 255 for u1,
    0 to 65535 for u2, 0 to 1 for floats) and pixel_spacing_mm (one number, or y and x).  Set them
    with:

    \b
      python -c "import zarr; zarr.open_group('A.zarr').attrs['mcdiff'] = {
        'intensity_range': [0, 4095], 'pixel_spacing_mm': 0.18}"

    If chunks are absent because they are black, or a codec is not supported, write the archive
    again, from A.zarr to B.zarr:

    \b
      python -c "import zarr; a = zarr.open_group('A.zarr', mode='r'); b = (
        zarr.create_group('B.zarr', attributes=dict(a.attrs))); [
        b.create_array(n, shape=x.shape, config={'write_empty_chunks': True},
        chunks=(1, *x.shape[1:]) if x.ndim > 2 else x.shape,
        dtype=str if x.dtype.kind in 'OT' else x.dtype,
        compressors=zarr.codecs.ZstdCodec(checksum=True)) for n, x in a.arrays()]; [
        b[n].__setitem__(k, x[k]) for n, x in a.arrays()
        for k in (range(x.shape[0]) if x.ndim > 2 else [...])]"
    """
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.archive.audit import audit

    opened = open_archive(archive)
    result = audit(opened)
    result = replace(result, warnings=(*_compare_with_model(opened), *result.warnings))
    ids = opened if show_ids else None
    click.echo(_as_json(result, ids) if as_json else _as_text(result, ids))
    return Exit.FAILED_CASES if result.problems else Exit.DONE


def _compare_with_model(archive: Archive) -> tuple[str, ...]:
    """A warning if the shipped model expects another number of depths."""
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
    from mcdiff_batch.engine.model.framing import check_depths

    try:
        check_depths(archive, load_bundle(SHIPPED).contract)
    except ArchiveError as error:
        return (f"{error}; for a model of your own, run with --bundle",)
    return ()


def _as_json(result: Audit, ids: Archive | None) -> str:
    document = result.as_dict()
    for problem in document["problems"]:
        if ids is not None:
            problem["id"] = ids.key(problem["index"])
    return json.dumps(document)


def _as_text(result: Audit, ids: Archive | None) -> str:
    """ids: the archive, if its ids are to be shown."""
    low, high = result.intensity_range
    lines = [
        f"{result.cases} cases of {result.depths} depths, {result.dtype}, {_sizes(result)}",
        f"intensities {low:g} to {high:g}, codec {result.codec}",
        *(f"warning: {x}" for x in result.warnings),
        *(_line(x, ids) for x in result.problems[:LISTED]),
    ]
    if len(result.problems) > LISTED:
        lines.append(f"... and {len(result.problems) - LISTED} more; --json lists them all")
    lines.append(f"{result.cases - len(result.problems)} usable, {len(result.problems)} not")
    return make_printable("\n".join(lines))


def _sizes(result: Audit) -> str:
    low, high = ("{} x {}".format(*x) for x in (result.smallest, result.largest))
    return f"{low} px (y, x)" if low == high else f"{low} to {high} px (y, x)"


def _line(problem: Problem, ids: Archive | None) -> str:
    name = "" if ids is None else f" ({_one_line(ids.key(problem.index))})"
    return f"case {problem.index}{name}: {problem.reason}: {problem.detail}"


def _one_line(key: str) -> str:
    """A case id, safe to print on one line of a terminal (P10)."""
    cut = key if len(key) <= ID_LENGTH else key[:ID_LENGTH] + "..."
    return make_printable(cut).replace("\n", "\\n")


def _parse_spacing(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    """A size in mm, or two, y and x, with a comma between."""
    if value is None:
        return None
    try:
        sizes = [float(x) for x in value.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or not all(0 < x <= 100 for x in sizes):
        raise click.BadParameter(f"{value} is no size in mm up to 100; give one such as 0.18")
    return sizes[0], sizes[-1]


@click.command("import")
@click.argument("sources", nargs=-1, type=options.PATH)
@click.option("--output", required=True, type=options.PATH, help="Archive to create.")
@click.option(
    "--pixel-spacing",
    callback=_parse_spacing,
    metavar="MM",
    help="Size of a pixel in mm, or Y,X. Without it, levels, angles and contrast stay blank.",
)
@click.option(
    "--intensity-range",
    type=(float, float),
    metavar="BLACK WHITE",
    help="Values of black and white (default: the full range of the files, such as 0 65535).",
)
@click.option(
    "--depths",
    type=click.IntRange(1, 64),
    help="Depths per case; those that a case lacks are marked as absent (default: as many as "
    "the case with the most).",
)
@import_options
def import_(
    sources: tuple[Path, ...],
    output: Path,
    pixel_spacing: tuple[float, float] | None,
    intensity_range: tuple[float, float] | None,
    depths: int | None,
    **dicom: Any,
) -> int:
    """Make an archive from PNG, TIFF or DICOM images.

    The images are grey, 8 or 16 bit, one for each depth.  A source is an image (a case of one
    depth), a folder with the images of one case, or a folder of such folders.  The images of a
    case are sorted by name, shallow to deep; depth_2 comes before depth_10.  File and folder
    names become case ids.  Hidden files and those of operating systems are passed over.

    DICOM images come from a folder (--dicom) or from a PACS (--dicomweb).  Their depths are sorted
    by InstanceNumber or frame.  A file beside the archive says which images a case was made from.
    """
    end_with(output)
    if dicom["folder"] is not None or dicom["url"] is not None:
        if sources:
            raise click.UsageError("Expected SOURCES, or one of --dicom and --dicomweb.")
        return import_from_dicom(output, pixel_spacing, intensity_range, depths, **dicom)
    if not sources:
        raise click.UsageError("Missing argument 'SOURCES...', or --dicom, or --dicomweb.")
    from mcdiff_batch.engine.archive.importer import import_images
    from mcdiff_batch.engine.output.places import check_outside

    check_outside(output)
    layout = import_images(
        sources,
        output,
        spacing_mm=pixel_spacing,
        depths=depths,
        intensity_range=intensity_range,
    )
    height, width = layout.grid
    lines = [
        f"{len(layout.scans)} cases of {layout.depths} depths, {layout.dtype}, "
        f"up to {height} x {width} px (y, x)",
        *(f"warning: {x}" for x in layout.warnings),
    ]
    click.echo(make_printable("\n".join(lines)))
    return Exit.DONE
