"""Where images to score come from: a run, or any method's zarr or folder of PNG files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.archive.image_files import read_grey
from mcdiff_batch.engine.errors import ArchiveError, UsageError
from mcdiff_batch.engine.image.frame import Frame, Image, Labels, nearest_to_frame, place, to_frame
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.output import arrays, ledger, places, runs, shards

SETTINGS = ("bundle", "solver", "ladder", "seed", "draws", "temperature", "plan", "software")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One method's images of an archive's cases."""

    path: Path
    cases: tuple[int, ...]  # the cases that have an image
    image: Callable[[int, Frame], Image]  # -> [H, W] in [0, 1] on the frame
    about: dict[str, Any]
    label: Callable[[int, Frame], Labels] | None = None  # the run's own label map
    spread: Callable[[int, Frame], Image] | None = None  # over draws, [H, W], in units of the image


def on_frame(image: npt.NDArray[Any], extent: tuple[int, int], frame: Frame) -> Image:
    """Area-averages an image that holds a scan of `extent` (y, x) px onto the frame.

    The scan lies on the image as on a frame of that size: centred, aspect kept.  So the image may
    have the shape of the scan, of any frame, or of a letterboxed square.
    """
    return to_frame(_scan(image, extent), frame, black=0.0)


def _scan(image: npt.NDArray[Any], extent: tuple[int, int]) -> npt.NDArray[Any]:
    return image[place(extent, Frame(height=image.shape[0], width=image.shape[1])).window]


def run_source(run: Path, archive: Archive, bundle: Bundle | None) -> Source:
    """The done cases of a finished run by `bundle`; None: by any bundle.

    Raises UsageError if `run` holds no run, ArchiveError if it is a run of anything else.
    """
    places.find_run(run)
    try:
        settings = runs.load_existing(run).settings
        output = zarr.open_group(run / shards.FOLDER, mode="r", use_consolidated=False)
        status = np.asarray(output["status"])
    except (OSError, KeyError, ValueError, UsageError) as error:
        raise ArchiveError(
            f"{run}: is not a finished run ({error}); finish it with `mcdiff-batch run`"
        ) from error
    if bundle is not None and settings.bundle != bundle.sha256:
        raise ArchiveError(
            f"{run}: was made with bundle {settings.bundle[:12]}..., expected "
            f"{bundle.sha256[:12]}...; name the run's bundle with --bundle"
        )
    if settings.archive != archive.identity:
        raise ArchiveError(f"{run}: is a run of another archive; name that archive with --truth")
    label: Any = output["label"]
    return Source(
        path=run,
        cases=tuple(np.flatnonzero(status == arrays.CODES[ledger.DONE]).tolist()),
        image=_reader(output["enhanced"], archive),
        about={name: getattr(settings, name) for name in SETTINGS},
        label=lambda case, frame: nearest_to_frame(_cut(label[case], case, archive), frame),
        spread=_reader(output["spread"], archive) if "spread" in output else None,
    )


def any_source(path: Path, archive: Archive) -> Source:
    """The images of any method, or of a run by any bundle.  Raises ArchiveError."""
    is_run = (path / runs.CONFIG).is_file()
    return run_source(path, archive, None) if is_run else images_source(path, archive)


def images_source(path: Path, archive: Archive) -> Source:
    """The images of a zarr or of a folder of PNG files.  Raises ArchiveError."""
    about = {"images": path.name}
    if path.is_dir() and not any((path / x).exists() for x in ("zarr.json", ".zgroup", ".zarray")):
        files = _files_by_case(path, archive)
        return Source(
            path=path,
            cases=tuple(sorted(files)),
            image=lambda case, frame: _to_frame(read_grey(files[case]), case, archive, frame),
            about=about,
        )
    array = _open(path, archive)
    cases = tuple(range(archive.cases))
    return Source(path=path, cases=cases, image=_reader(array, archive), about=about)


def _open(path: Path, archive: Archive) -> Any:
    """The array `enhanced` of a group, or the array itself."""
    try:
        stored = zarr.open(path, mode="r")
        array: Any = stored if isinstance(stored, zarr.Array) else stored["enhanced"]
        fits = array.ndim == 3 and array.shape[0] == archive.cases
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise ArchiveError(
            f"{path}: holds no images ({error}); expected a zarr with `enhanced (case, y, x)`, or "
            "a folder of PNG files"
        ) from error
    if not fits:
        expected = f"({archive.cases}, y, x), one image per case of --truth"
        raise ArchiveError(f"{path}: images are {array.shape}, expected {expected}")
    return array


def _files_by_case(path: Path, archive: Archive) -> dict[int, Path]:
    """PNG files by case; a file's name is a case id or a case's index."""
    keys = {archive.key(i): i for i in range(archive.cases)}
    files: dict[int, Path] = {}
    for file in sorted(path.glob("*.png")):
        number = int(file.stem) if file.stem.isdecimal() else -1
        case = keys.get(file.stem, number)
        if not 0 <= case < archive.cases or case in files:
            raise ArchiveError(
                f"{file}: its name is not a case, or another file has the same case; expected an "
                f"index below {archive.cases} or a case_id"
            )
        files[case] = file
    if not files:
        raise ArchiveError(
            f"{path}: holds no PNG file; expected one per case, named by index or case_id"
        )
    return files


def _reader(array: Any, archive: Archive) -> Callable[[int, Frame], Image]:
    return lambda case, frame: _to_frame(np.asarray(array[case]), case, archive, frame)


def _to_frame(image: npt.NDArray[Any], case: int, archive: Archive, frame: Frame) -> Image:
    return to_frame(_unit(_cut(image, case, archive), f"case {case}"), frame, black=0.0)


def _cut(image: npt.NDArray[Any], case: int, archive: Archive) -> npt.NDArray[Any]:
    """The scan on a case's image; on the archive's padded grid it lies in the corner."""
    extent = archive.extent(case)
    if image.shape == archive.grid:
        return image[: extent[0], : extent[1]]
    return _scan(image, extent)


def _unit(image: npt.NDArray[Any], where: str) -> Image:
    """Scales to [0, 1]: u1 is 0..255, u2 0..65535, floats are 0..1.  Raises ArchiveError."""
    if image.dtype.kind == "u":
        return np.asarray(image, np.float32) / np.float32(np.iinfo(image.dtype).max)
    values = np.asarray(image, np.float32)
    if image.dtype.kind != "f" or not (values.min() > -0.5 and values.max() < 1.5):
        raise ArchiveError(f"{where}: unusable px values; expected u1, u2 or floats in [0, 1]")
    return np.clip(values, 0, 1)
