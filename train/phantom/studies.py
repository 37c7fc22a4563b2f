"""Writes phantoms as DICOM: a study of five ultrasound images for each, as a clinic has them."""

from contextlib import closing
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UltrasoundImageStorage

from mcdiff_batch.engine.dicom.derived import encode, make_uid, new_file
from mcdiff_batch.engine.files import workplace

from .archive import check, draw, user_error
from .case import VERSION, Image, phantom

TISSUE, CENTIMETRES = 1, 3  # RegionDataType, PhysicalUnits


def write_studies(folder: Path, *, cases: int, seed: int, first: int = 0, workers: int = 0) -> None:
    """Writes cases `first .. first + cases - 1` of series `seed`, as `write_phantoms` draws them.

    The folder appears under its name when it is complete.  The bytes depend on seed and case alone.
    Raises UsageError if `folder` exists, SpaceError if the disk is full.
    """
    check(folder, cases, first, "--dicom")
    try:
        with workplace(folder) as partial_path:
            partial_path.mkdir()
            write = partial(_write_study, partial_path, seed)
            with closing(draw(write, range(first, first + cases), workers)) as drawn:
                for _ in drawn:
                    pass
            partial_path.rename(folder)
    except OSError as error:
        raise user_error(error, folder) from error


def _write_study(folder: Path, seed: int, index: int) -> None:
    case = phantom(seed, index)
    name = f"phantom-{seed}-{index:06d}"
    (folder / name).mkdir()
    for depth, pixels in enumerate(case.depths, 1):
        image = _image(name, depth, pixels, case.pixel_spacing_mm)
        (folder / name / f"depth_{depth}.dcm").write_bytes(encode(image))


def _image(name: str, depth: int, pixels: Image, spacing_mm: float) -> FileDataset:
    """One depth: its px [y, x] fill the image.  The patient is made up."""
    uids = [make_uid("phantom", str(VERSION), name, x) for x in ("study", "series", f"{depth}")]
    out = new_file(UltrasoundImageStorage, uids[2])
    out.SOPClassUID = UltrasoundImageStorage
    out.StudyInstanceUID, out.SeriesInstanceUID, out.SOPInstanceUID = uids
    out.PatientName, out.PatientID = f"Phantom^{name}", name
    out.PatientBirthDate, out.PatientSex, out.PatientOrientation = "", "O", ["R", "F"]
    out.StudyDate = out.ContentDate = "20260101"
    out.StudyTime = out.ContentTime = "120000"
    out.StudyID, out.AccessionNumber, out.ReferringPhysicianName = "1", "", ""
    out.Modality, out.Manufacturer, out.Laterality = "US", "synthetic phantom", ""
    out.ImageType = ["ORIGINAL", "PRIMARY", "SPINE", "0001"]
    out.SeriesNumber, out.InstanceNumber = 1, depth
    out.BurnedInAnnotation, out.LossyImageCompression = "NO", "00"
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.Rows, out.Columns = pixels.shape
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 8, 8, 7, 0
    out.SequenceOfUltrasoundRegions = [_region(pixels.shape[0], pixels.shape[1], spacing_mm)]
    data = pixels.tobytes()
    out.PixelData = data + bytes(len(data) % 2)
    return out


def _region(rows: int, columns: int, spacing_mm: float) -> Dataset:
    """The whole image shows tissue; this is where ultrasound says how large a px is."""
    out = Dataset()
    out.RegionSpatialFormat, out.RegionDataType, out.RegionFlags = 1, TISSUE, 0
    out.RegionLocationMinX0 = out.RegionLocationMinY0 = 0
    out.RegionLocationMaxX1, out.RegionLocationMaxY1 = columns - 1, rows - 1
    out.PhysicalUnitsXDirection = out.PhysicalUnitsYDirection = CENTIMETRES
    out.PhysicalDeltaX = out.PhysicalDeltaY = spacing_mm / 10
    return out
