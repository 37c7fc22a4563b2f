"""DICOM images for tests, as a clinic might have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from tests.support.running import inline, job

ROOT = "1.2.826.0.1.3680043.8.498."  # of made-up UIDs
SPACING = 5.0  # mm, so that 40 px are a spine
Change = Callable[[Dataset], object]


def scan(seed: int = 0, depths: int = 2, size: tuple[int, int] = (40, 16)) -> npt.NDArray[Any]:
    """Noise [depth, y, x] with a black margin."""
    out = np.zeros((depths, *size), np.uint8)
    shape = (depths, size[0], size[1] - 4)
    out[:, :, 2:-2] = np.random.default_rng(seed).integers(20, 250, shape)
    return out


def uid(*numbers: int) -> UID:
    return UID(ROOT + ".".join(map(str, numbers)))


def make_image(pixels: npt.NDArray[Any], study: int = 1, series: int = 1, number: int = 1) -> Any:
    """An ultrasound image of grey px [y, x]."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = uid(study, series, number)
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.SOPClassUID, out.SOPInstanceUID = UltrasoundImageStorage, uid(study, series, number)
    out.StudyInstanceUID, out.SeriesInstanceUID = uid(study), uid(study, series)
    out.PatientName, out.PatientID = f"CANARY^Name{study}", f"CANARY-{study}"
    out.PatientBirthDate, out.PatientSex = "20100101", "F"
    out.StudyDate, out.StudyTime, out.StudyID = "20260101", "120000", str(study)
    out.AccessionNumber, out.ReferringPhysicianName = f"CANARY{study}", "CANARY^Doctor"
    out.StudyDescription = "CANARY study"
    out.ContentDate, out.ContentTime = "20260101", "120001"
    out.Modality, out.Manufacturer = "US", "a scanner"
    out.ImageType = ["ORIGINAL", "PRIMARY", "SPINE", "0001"]
    out.PatientOrientation, out.Laterality = ["R", "F"], ""
    out.SeriesNumber, out.InstanceNumber = series, number
    out.BurnedInAnnotation, out.LossyImageCompression = "NO", "00"
    out.PixelSpacing = [SPACING, SPACING]
    out.private_block(0x11, "a scanner", create=True).add_new(1, "LO", "CANARY private")
    set_pixels(out, pixels)
    return out


def set_pixels(out: Dataset, pixels: npt.NDArray[Any], photometric: str = "MONOCHROME2") -> None:
    """Stores px [y, x], [frame, y, x] of one sample, or [y, x, 3]."""
    colour = pixels.shape[-1] == 3 and pixels.ndim == 3
    out.Rows, out.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    out.SamplesPerPixel, out.PhotometricInterpretation = (3, "RGB") if colour else (1, photometric)
    if colour:
        out.PlanarConfiguration = 0
    if pixels.ndim == 3 and not colour:
        out.NumberOfFrames = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = (
        bits,
        bits,
        bits - 1,
        0,
    )
    data = pixels.tobytes()
    out.PixelData = data + b"\0" * (len(data) % 2)
    out["PixelData"].VR = "OW" if bits == 16 else "OB"


def region(top: int, left: int, bottom: int, right: int, spacing_mm: float = SPACING) -> Dataset:
    """A region of tissue; all bounds belong to it."""
    out = Dataset()
    out.RegionSpatialFormat, out.RegionDataType, out.RegionFlags = 1, 1, 0
    out.RegionLocationMinX0, out.RegionLocationMinY0 = left, top
    out.RegionLocationMaxX1, out.RegionLocationMaxY1 = right, bottom
    out.PhysicalUnitsXDirection = out.PhysicalUnitsYDirection = 3
    out.PhysicalDeltaX = out.PhysicalDeltaY = spacing_mm / 10
    return out


def save(path: Path, image: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_cases(
    folder: Path,
    cases: int = 2,
    depths: int = 2,
    size: tuple[int, int] = (40, 16),
    change: Change = lambda _: None,
) -> Path:
    """A folder of studies, with a file for each depth; the names are those of patients.

    change: is done to every image.
    """
    for case in range(1, cases + 1):
        for number, pixels in enumerate(scan(case, depths, size), 1):
            image = make_image(pixels, case, 1, number)
            change(image)
            save(folder / f"CANARY {case}" / f"IM{number}.dcm", image)
    return folder


def enhance(
    root: Path, *, grid: str | None = None, cases: int = 2, depths: int = 2, **how: Any
) -> Path:
    """The output of a run on a folder of DICOM, root/in, which is made if it is not there."""
    if not (root / "in").exists():
        write_cases(root / "in", cases, depths, **how)
    import_dicom(root / "in", root / "a.zarr", Options())
    inline(job(root / "a.zarr", root / "a.enhanced", grid=grid))
    return root / "a.enhanced"


def compress(path: Path, syntax: Any) -> None:
    """Compresses a file in place with GDCM."""
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def multi_frame(image: Any) -> None:
    """Makes five depths of an image."""
    set_pixels(image, scan(0, 5))
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage


def with_class(name: str) -> Change:
    def change(image: Any) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = name

    return change


def setting(**values: Any) -> Change:
    def change(image: Any) -> None:
        for name, value in values.items():
            setattr(image, name, value)

    return change


def tinted(image: Any) -> None:
    """Makes an image of colour, in which a single px is not grey."""
    pixels = np.stack([scan()[0]] * 3, -1)
    pixels[20, 8, 2] ^= 1
    set_pixels(image, pixels)


def written(folder: Path, case: int = 0, kind: str = "image") -> Any:
    """An object of an export."""
    return pydicom.dcmread(folder / f"{case:06d}" / f"{kind}.dcm")
