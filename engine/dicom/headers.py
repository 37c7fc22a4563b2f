"""What a DICOM file is to an import: an image of a case, or none."""

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from .layout import SIDES, Layout, count_frames, read_layout
from .reading import NATIVE, Refusal, integer, is_uid, read, refuse, refuse_damage

PRODUCT = "mcdiff-batch"  # Manufacturer of what this program writes
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"),
    *("IssuerOfPatientID", "SeriesNumber", "InstanceNumber", "NumberOfFrames", "Manufacturer"),
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "PixelSpacing", "PixelAspectRatio"),
    *("SequenceOfUltrasoundRegions", "BurnedInAnnotation", *SIDES, "ImageOrientationPatient"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "PresentationLUTShape", "PixelPresentation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One file with an image.  Without a layout it is refused, and `problem` says why."""

    path: Path
    sop_class: str
    uid: str
    study: str
    series: str
    patient: str
    name: str  # of a patient without an ID, else ""
    place: tuple[int | None, int | None]  # SeriesNumber, InstanceNumber
    frames: int
    compressed: bool
    burned_in: str  # BurnedInAnnotation, or ""
    layout: Layout | None
    problem: str = ""


def read_header(path: Path) -> Header | None:
    """The header of an image; None for an image that this program made.

    Raises Refusal where the file cannot be identified, OSError where it cannot be read.
    """
    dataset = read(path, KEYWORDS)
    with refuse_damage():
        if str(dataset.get("Manufacturer", "")) == PRODUCT:
            return None
        names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        instance, study, series = (_uid(dataset, x) for x in names)
        layout, problem = None, ""
        frames = 1
        try:
            frames = count_frames(dataset)
            layout = read_layout(dataset)
        except Refusal as error:
            problem = str(error)
        return Header(
            path=path,
            sop_class=str(dataset.get("SOPClassUID", "")),
            uid=instance,
            study=study,
            series=series,
            patient=f"{dataset.get('IssuerOfPatientID', '')}/{dataset.get('PatientID', '')}",
            name="" if dataset.get("PatientID") else _read_name(path),
            place=(integer(dataset, "SeriesNumber"), integer(dataset, "InstanceNumber")),
            frames=frames,
            compressed=dataset.file_meta.TransferSyntaxUID not in NATIVE,
            burned_in=str(dataset.get("BurnedInAnnotation") or "").upper(),
            layout=layout,
            problem=problem,
        )


def _read_name(path: Path) -> str:
    return str(read(path, ["PatientName"]).get("PatientName") or "").rstrip("^ ")


def _uid(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword) or "")
    if not is_uid(value):
        raise refuse(dataset, keyword, "a UID of digits and dots")
    return value
