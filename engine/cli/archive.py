"""Commands for archives: `check` and `import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.dicom.cli import import_from_dicom, import_options
from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.text import make_printable

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.archive.audit import Audit, Problem

LISTED = 20  # problems on a terminal; JSON has them all
ID_LENGTH = 80  # characters of a case id on a terminal


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--show-ids", is_flag=True, help="Name cases by id too.")
def check(archive: Path, as_json: bool, show_ids: bool) -> int:
    """Check every case of an archive.

    Reads the whole archive, writes nothing and needs no model.  Exit codes: 0 all cases can be
    used, 3 some cannot, 4 the archive cannot be used at all.
    """
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.archive.audit import audit

    opened = open_archive(archive)
    result = audit(opened)
    ids = opened if show_ids else None
    click.echo(_as_json(result, ids) if as_json else _as_text(result, ids))
    return Exit.FAILED_CASES if result.problems else Exit.DONE


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


@click.command("import")
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Archive to create.")
@click.option(
    "--pixel-spacing",
    type=click.FloatRange(min=0, min_open=True, max=100),
    help="Size of a pixel in mm. Without it, angles cannot be measured.",
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
    pixel_spacing: float | None,
    depths: int | None,
    **dicom: Any,
) -> int:
    """Make an archive from PNG, TIFF or DICOM images.

    The images are grey, 8 or 16 bit, one for each depth.  A source is an image (a case of one
    depth), a folder with the images of one case, or a folder of such folders.  The images of a
    case are sorted by name, shallow to deep; depth_2 comes before depth_10.  File and folder
    names become case ids.

    DICOM images come from a folder (--dicom) or from a PACS (--dicomweb).  Their depths are sorted
    by InstanceNumber or frame.  The way back to them is in a file beside the archive.
    """
    if dicom["folder"] is not None or dicom["url"] is not None:
        if sources:
            raise click.UsageError("Expected SOURCES, or one of --dicom and --dicomweb.")
        return import_from_dicom(output, pixel_spacing, depths, **dicom)
    if not sources:
        raise click.UsageError("Missing argument 'SOURCES...', or --dicom, or --dicomweb.")
    from mcdiff_batch.engine.archive.importer import import_images

    layout = import_images(sources, output, spacing_mm=pixel_spacing, depths=depths)
    height, width = layout.grid
    click.echo(
        f"{len(layout.scans)} cases of {layout.depths} depths, {layout.dtype}, "
        f"up to {height} x {width} px (y, x)"
    )
    return Exit.DONE
