"""One real image: the bundle's label map against an expert's mask, before and after enhancement.

    python -m mcdiff_batch.bench.studies.real_image --image scan.png --label mask.png -- --steps 4

This is the one figure that no simulation can flatter.  The image is enhanced by the command `run`
as an archive of one case with one depth.  The bundle reads both label maps, each from one image.
Everything is measured on the bundle's frame.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from PIL import Image as Picture

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.image_files import read_grey, read_header
from mcdiff_batch.engine.archive.importer import import_images
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.cli.run import run
from mcdiff_batch.engine.errors import ArchiveError, UsageError
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.image.frame import Frame, Image, Labels, Mask, nearest_to_frame
from mcdiff_batch.engine.image.metrics import contrast, dice, regions, roc_area
from mcdiff_batch.engine.model.contract import SHIPPED, Bundle, load_bundle
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.evaluation.bars import Bar
from mcdiff_batch.train.evaluation.sources import run_source
from mcdiff_batch.train.evaluation.tables import round_figures

from .panels import Pixels, beside, grey, overlaid

CLASSES = ("process", "rib", "lump")  # as a bundle numbers them, from 1
LIMITS = {  # bar and stretch for the Dice of the enhanced image's label map
    "bone": (0.82, 0.87),  # the bars of the classes are the first bundle's Dice
    "process": (0.665, None),
    "rib": (0.618, None),
    "lump": (0.816, None),
}
ROWS = {
    "cnr_ln": "CNR, 20 ln",
    "snr_ln": "SNR, 20 ln",
    "cnr_log10": "CNR, dB (20 log10)",
    "snr_log10": "SNR, dB (20 log10)",
    "roc_area": "ROC area, bone against the rest",
}
SPACING_MM = 0.18
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """An image [H, W] in [0, 1] on the frame, and the label map that the bundle reads from it."""

    image: Image
    label: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhanced:
    """The scan before and after, and the settings of the run."""

    case: FramedCase
    original: Labelled
    enhanced: Labelled
    about: Json
    spread: Image | None = None  # of draws, in units of the image


def enhance(image: Path, bundle: Bundle, spacing_mm: float, options: Sequence[str]) -> Enhanced:
    """Enhances an image.  options: of `mcdiff-batch run`.  Raises McdiffError."""
    frame = bundle.contract.frame
    with TemporaryDirectory() as folder:
        archive, output = Path(folder) / "scan.zarr", Path(folder) / "scan.enhanced"
        import_images([image], archive, spacing_mm=spacing_mm)
        words = ["--input", archive, "--output", output, "--bundle", bundle.root, *options]
        with redirect_stdout(sys.stderr):
            if run.main([str(x) for x in words], standalone_mode=False):
                raise ArchiveError(f"{image}: was not enhanced; see `mcdiff-batch check`")
        opened = open_archive(archive)
        case, source = (
            frame_case(opened.read(0), bundle.contract),
            run_source(output, opened, bundle),
        )
        assert source.label
        spread = source.spread(0, frame) if source.spread else None
        after = Labelled(image=source.image(0, frame), label=source.label(0, frame))
    scan = case.depths[case.optimal]
    before = Labelled(image=(scan + 1) / 2, label=read_label(bundle, scan, case.strip))
    return Enhanced(case=case, original=before, enhanced=after, about=source.about, spread=spread)


def read_label(bundle: Bundle, image: Image, strip: Mask) -> Labels:
    """The bundle's label map of one image [H, W] in [-1, 1], as in a run."""
    cpu = devices("cpu")
    plan = maker(bundle, cpu, 1)(cpu[0], 1)
    label: Labels = plan.relabel(image[None, None], strip[None, None].astype(np.float32))[0]
    return label


def renumber(mask: Labels, order: Sequence[str]) -> Labels:
    """Renumbers a mask whose classes are in `order`, from 1, to the order of CLASSES."""
    if sorted(order) != sorted(CLASSES):
        raise UsageError(f"--label-order: write {','.join(CLASSES)} in the order of the mask")
    if mask.max() > len(order):
        raise ArchiveError(f"the mask has a label {mask.max()}, expected 0 to {len(order)}")
    numbers = np.array([0, *(1 + CLASSES.index(x) for x in order)], np.uint8)
    return np.asarray(numbers[mask], np.uint8)


def scores(image: Labelled, mask: Labels, strip: Mask, spacing_mm: float) -> Json:
    """Dice with the mask [H, W]; CNR and SNR by the mask, against the 4.5 mm ring around bone."""
    bone = mask > 0
    s, b = regions(bone, strip, spacing_mm)
    whole = dice((image.label > 0).astype(np.uint8), bone.astype(np.uint8), classes=2)
    return {
        "dice": dict(zip(("bone", *CLASSES), [*whole, *dice(image.label, mask)], strict=True)),
        **contrast(image.image, s, b),
        "roc_area": roc_area(image.image, s, strip & ~bone),
    }


def measure(scan: Enhanced, mask: Labels) -> Json:
    """Scores the scan and the enhanced image.  mask: [y, x] like the scan, numbered as CLASSES."""
    strip, spacing = scan.case.strip, scan.case.spacing_mm[0]
    framed = nearest_to_frame(mask, Frame(height=strip.shape[0], width=strip.shape[1]))
    both = {"original": scan.original, "enhanced": scan.enhanced}
    return {name: scores(image, framed, strip, spacing) for name, image in both.items()}


def bars(scored: Json) -> list[Bar]:
    dice = scored["enhanced"]["dice"]
    return [
        Bar(title=f"Dice of {name}, enhanced", measured=dice[name], bar=bar, stretch=stretch)
        for name, (bar, stretch) in LIMITS.items()
    ]


def as_text(scored: Json) -> str:
    """One row per measure, original beside enhanced, with the bars."""
    both = (scored["original"], scored["enhanced"])
    rows = [(f"Dice, {name}", *(x["dice"][name] for x in both)) for name in LIMITS]
    rows += [(title, *(x[name] for x in both)) for name, title in ROWS.items()]
    judged = [f"{x.sign}{x.bar:g} {x.verdict}" for x in bars(scored)]
    lines = [f"{'':<34}{'original':>10}{'enhanced':>10}"]
    for row, verdict in zip(rows, [*judged, *[""] * len(ROWS)], strict=True):
        lines.append(f"{row[0]:<34}{row[1]:>10.3f}{row[2]:>10.3f}  {verdict}".rstrip())
    return "\n".join(lines)


def draw(pair: Enhanced, path: Path) -> None:
    """Writes a PNG: the scan, the enhanced image, and that with its label map over it."""
    columns = np.flatnonzero(pair.case.strip.any(axis=0))
    inside = np.s_[:, columns[0] : columns[-1] + 1]
    scan, result = (_bytes(x.image) for x in (pair.original, pair.enhanced))
    panels = [grey(scan), grey(result), overlaid(result, pair.enhanced.label)]
    Picture.fromarray(beside([x[inside] for x in panels])).save(path, optimize=True)


def _bytes(image: Image) -> Pixels:
    return np.rint(image * 255).astype(np.uint8)


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--image", type=FILE, required=True, help="The scan, PNG or TIFF, grey.")
@click.option(
    "--label", type=FILE, required=True, help="The expert's mask of it, 0 where there is no bone."
)
@click.option(
    "--label-order",
    default="rib,process,lump",
    show_default=True,
    help="The classes that the mask numbers 1, 2, 3.",
)
@click.option(
    "--spacing",
    type=click.FloatRange(min=0, min_open=True),
    default=SPACING_MM,
    show_default=True,
    help="Size of a px of the image, mm.",
)
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model bundle (default: the shipped one).",
)
@click.option("--output", type=NEW, help="Also write the JSON here.")
@click.option(
    "--picture", type=NEW, help="Also write a PNG: scan, enhanced, enhanced with label map."
)
@click.argument("options", nargs=-1)
def main(
    image: Path,
    label: Path,
    label_order: str,
    spacing: float,
    bundle: Path | None,
    output: Path | None,
    picture: Path | None,
    options: tuple[str, ...],
) -> None:
    """Enhance one real image, and compare its label map with an expert's mask.

    OPTIONS after -- are those of `mcdiff-batch run`, for example --steps 4.
    """
    mask = renumber(read_grey(label), label_order.split(","))
    if mask.shape != read_header(image).extent:
        extent = read_header(image).extent
        raise ArchiveError(
            f"{label}: the mask is {mask.shape} px (y, x), expected {extent} like the image"
        )
    loaded = load_bundle(bundle or SHIPPED)
    scan = enhance(image, loaded, spacing, options)
    scored = measure(scan, mask)
    if picture is not None:
        draw(scan, picture)
    report = {
        "what": "one real image and an expert's mask, on the bundle's frame",
        "image_sha256": file_sha256(image),
        "label_sha256": file_sha256(label),
        "spacing_mm": spacing,
        "frame": asdict(loaded.contract.frame),
        "run": scan.about,
        **scored,
        "bars": [asdict(x) | {"verdict": x.verdict} for x in bars(scored)],
        "machine": machine(),
    }
    document = json.dumps(round_figures(report))
    click.echo(as_text(scored))
    if output is not None:
        output.write_text(document + "\n")
    click.echo(document)


if __name__ == "__main__":
    main()
