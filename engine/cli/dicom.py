"""Commands for DICOM: `export-dicom`, and what `import` does for --dicom and --dicomweb."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.errors import ArchiveError, Exit, McdiffError, UsageError
from mcdiff_batch.engine.text import make_printable, pluralise

from .options import EXISTING_FOLDER, PATH, join

if TYPE_CHECKING:
    from mcdiff_batch.engine.dicom.importer import Imported, Options
    from mcdiff_batch.engine.pacs.export import Exported
    from mcdiff_batch.engine.pacs.store import Folder, Peer, Web

PACKAGES = ("pydicom", "highdicom", "pynetdicom", "gdcm")
LISTED = 20  # cases that failed, on a terminal


def check_extra() -> None:
    """Raises UsageError unless the packages of the extra `dicom` are installed."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise UsageError(
                f"DICOM needs {name}, which is not installed: pip install 'mcdiff-batch[dicom]'"
            )


import_options = join(  # of `import`, for DICOM
    click.option(
        "--dicom",
        "folder",
        type=EXISTING_FOLDER,
        help="Import the ultrasound images of a folder of DICOM files.",
    ),
    click.option("--dicomweb", "url", help="Import from a PACS; a DICOMweb address."),
    click.option(
        "--match",
        "matches",
        multiple=True,
        metavar="KEY=VALUE",
        help="With --dicomweb: import these studies only, for example StudyDate=20260101-20260131.",
    ),
    click.option(
        "--case-by",
        type=click.Choice(["series", "study", "folder"]),
        default="series",
        show_default=True,
        help="With DICOM: images of one series, study or folder make a case.",
    ),
    click.option(
        "--skip-refused",
        is_flag=True,
        help="With DICOM: leave out the cases that cannot be used, instead of stopping.",
    ),
    click.option("--show-ids", is_flag=True, help="With DICOM: name files in messages."),
)


def import_from_dicom(
    output: Path,
    pixel_spacing: tuple[float, float] | None,
    intensity_range: tuple[float, float] | None,
    depths: int | None,
    folder: Path | None,
    url: str | None,
    matches: tuple[str, ...],
    case_by: Any,
    skip_refused: bool,
    show_ids: bool,
) -> int:
    """What `import` does with --dicom or --dicomweb.  Returns the exit code."""
    if folder is not None and url is not None:
        raise UsageError("--dicom and --dicomweb: expected one of them")
    if folder is not None and matches:
        raise UsageError("--match works with --dicomweb only")
    check_extra()
    from mcdiff_batch.engine.dicom.importer import Options

    options = Options(
        spacing_mm=pixel_spacing,
        intensity_range=intensity_range,
        depths=depths,
        group_by=case_by,
        skip_refused=skip_refused,
        show_ids=show_ids,
    )
    if folder is not None:
        from mcdiff_batch.engine.dicom.importer import import_dicom

        made = import_dicom(folder, output, options, tell=_say)
    else:
        assert url is not None
        return _import_from_server(url, dict(map(_parse_match, matches)), output, options)
    return _summarise(made)


def _import_from_server(url: str, matches: dict[str, str], output: Path, options: Options) -> int:
    """Fetches the images beside the output first, so that a lost connection loses nothing."""
    from mcdiff_batch.engine.archive.importer import check_output
    from mcdiff_batch.engine.dicom.importer import import_dicom
    from mcdiff_batch.engine.output.places import check_outside
    from mcdiff_batch.engine.pacs.dicomweb import Server
    from mcdiff_batch.engine.pacs.download import download

    if options.group_by == "folder":
        raise UsageError("--case-by folder works with --dicom only")
    check_outside(output)
    check_output(output, ())
    server = Server(url)
    folder = output.with_name(f"{output.name}.download")
    try:
        skip, ids = options.skip_refused, options.show_ids
        fetched = download(server, matches, folder, _say, skip_gaps=skip, show_ids=ids)
        if not fetched.images:
            raise ArchiveError(
                f"{server.url}: no image of the classes Ultrasound, Ultrasound Multi-frame or "
                "Secondary Capture matches; look at --match"
            )
    finally:
        server.close()
    try:
        made = import_dicom(folder, output, options, place=server.url, tell=_say)
    except McdiffError:
        _say(f"{folder} keeps the images that were fetched, for another try; otherwise delete it")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _say(f"{folder} cannot be deleted, and holds images of patients; delete it")
    code = _summarise(made)
    if fetched.gaps:
        _say("the server did not give everything; what is missing is said above")
    return Exit.FAILED_CASES if fetched.gaps else code


def _parse_match(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z]+|[0-9A-Fa-f]{8}", key) or not value:
        raise UsageError(f"--match {text}: expected KEY=VALUE, for example StudyDate=20260131")
    return key, value


def _summarise(made: Imported) -> int:
    height, width = made.grid
    click.echo(
        f"{pluralise(made.cases, 'case')} of {pluralise(made.depths, 'depth')}, {made.dtype}, "
        f"up to {height} x {width} px "
        f"(y, x); the map of UIDs is {make_printable(str(made.map))}"
    )
    for note in made.notes:
        _say(f"note: {note}")
    if made.left_out:
        _say(f"{pluralise(made.left_out, 'file')} could not be used; left out, with the whole case")
    return Exit.FAILED_CASES if made.left_out else Exit.DONE


def _say(line: str) -> None:
    click.echo(make_printable(line).replace("\n", "\\n"), err=True)


@click.command("export-dicom")
@click.argument("output", type=PATH)
@click.option("--to", "folder", type=PATH, help="Write files to a folder.")
@click.option("--dicomweb", "url", help="Send to a PACS; a DICOMweb address.")
@click.option("--store", "address", metavar="HOST:PORT", help="Send to a PACS by C-STORE.")
@click.option("--aet", default="MCDIFF", show_default=True, help="Our AE title, with --store.")
@click.option(
    "--called-aet", default="ANY-SCP", show_default=True, help="AE title of the PACS, with --store."
)
@click.option(
    "--objects",
    default="image,segmentation,report",
    show_default=True,
    help="Objects to make for each case.",
)
@click.option("--cases", help="Case numbers, for example 0,3,5-9 (default: all).")
@click.option(
    "--source",
    help="Folder or DICOMweb address with the images (default: where they were imported from).",
)
@click.option(
    "--map",
    "map_path",
    type=PATH,
    help="The map that `import` wrote (default: archive.zarr.dicom.json beside archive.enhanced).",
)
def export_dicom(
    output: Path,
    folder: Path | None,
    url: str | None,
    address: str | None,
    aet: str,
    called_aet: str,
    objects: str,
    cases: str | None,
    source: str | None,
    map_path: Path | None,
) -> int:
    """Write the results of a run as DICOM, not for diagnosis.

    For each case, in the study of its source: the enhanced image, the label map as a segmentation,
    and the curve angles as a structured report.  The same command again finishes an export that was
    stopped; sending twice does no harm.  Cases that a review rejected are held back.  If a case was
    exported before it was rejected, its objects stay where they are; delete them there.
    """
    from mcdiff_batch.engine.output.places import default_archive, find_run

    find_run(output)
    check_extra()
    from mcdiff_batch.engine.dicom import uid_map
    from mcdiff_batch.engine.pacs.export import export

    kinds = _parse_objects(objects)
    uids = uid_map.load(map_path or uid_map.path_beside(default_archive(output)))
    with _open(folder, url, address, aet, called_aet) as destination:
        counts = export(
            output, uids, destination, source=source, cases=cases, kinds=kinds, tell=_say
        )
    return _report(counts)


def _parse_objects(text: str) -> tuple[str, ...]:
    from mcdiff_batch.engine.pacs.export import KINDS

    kinds = tuple(x.strip() for x in text.split(","))
    if not set(kinds) <= set(KINDS):
        raise UsageError(f"--objects {text}: expected some of {','.join(KINDS)}")
    return kinds


def _open(
    folder: Path | None, url: str | None, address: str | None, aet: str, called_aet: str
) -> Any:
    """The one destination that was named, as a context."""
    from mcdiff_batch.engine.pacs.store import Folder, Peer, Web

    if sum(x is not None for x in (folder, url, address)) != 1:
        raise UsageError("expected one of --to FOLDER, --dicomweb URL and --store HOST:PORT")
    destination: Folder | Web | Peer
    if folder is not None:
        destination = Folder(folder)
    elif url is not None:
        destination = Web(url)
    else:
        destination = Peer(*_parse_address(address or ""), aet, called_aet)
    return closing(destination)


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--store {text}: expected HOST:PORT, for example pacs.example:104")
    return host.strip("[]"), int(port)


def _report(counts: Exported) -> int:
    for case, why in list(counts.failed.items())[:LISTED]:
        _say(f"case {case}: {why}")
    if len(counts.failed) > LISTED:
        _say(f"... and {len(counts.failed) - LISTED} more")
    if counts.left:
        cases = ", ".join(map(str, counts.left[:LISTED]))
        more = ", ..." if len(counts.left) > LISTED else ""
        _say(
            "warning: the folder still holds what an earlier export wrote of cases that are "
            f"rejected now ({cases}{more}); delete their folders"
        )
    if counts.without_spacing:
        _say(
            f"{pluralise(counts.without_spacing, 'case')} exported without a report of angles: the "
            "size of a pixel is unknown, or fits no spine; import with --pixel-spacing, and run "
            "again"
        )
    if counts.without_angle:
        _say(
            f"{pluralise(counts.without_angle, 'case')} exported without a report of angles: no "
            "curve angle was found"
        )
    click.echo(
        f"{pluralise(counts.sent, 'case')} exported ({pluralise(counts.objects, 'object')}), "
        f"{len(counts.failed)} failed, "
        f"{counts.rejected} held back by the review, {counts.unfinished} without a result"
    )
    return Exit.FAILED_CASES if counts.failed else Exit.DONE
