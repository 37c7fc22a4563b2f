"""The enhanced image as DICOM: of the source's class, on the source's grid, in the source's study.

Everything here depends on the source's header, the pixels and the fingerprint alone, so the same
export gives the same bytes, and another one gives other UIDs.
"""

import io
import uuid
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from mcdiff_batch.engine.image.frame import Labels, Pixels
from mcdiff_batch.engine.telemetry.machine import package_version

from .headers import PRODUCT
from .layout import CLASSES, MULTI
from .uid_map import MappedCase

NOT_FOR_DIAGNOSIS = "Not for diagnosis."
PATIENT = (  # modules that file the result under the patient and the study of its source
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyDescription", "TimezoneOffsetFromUTC"),
)
IMAGE = (  # what says where the image is on the body, and how large
    *("Modality", "BodyPartExamined", "Laterality", "PatientOrientation", "PixelSpacing"),
    *("PixelSpacingCalibrationType", "SequenceOfUltrasoundRegions", "AnatomicRegionSequence"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *("ContentDate", "ContentTime"),
)
COPIED = (*PATIENT, *IMAGE)
REQUIRED = {  # present though empty, where the source has none
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality"),
}
SERIES = {"image": 901, "segmentation": 902, "report": 903}  # SeriesNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a run made of one case, on the grid of its source."""

    image: Pixels  # [rows, columns]; black outside the scan
    labels: Labels  # [rows, columns]; 0 outside the scan
    classes: tuple[str, ...]  # names of the labels
    quality: Mapping[str, float | None]
    flags: tuple[str, ...]  # a line for each check of the gate that the case fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What was done, by what."""

    version: str  # of this program
    bundle: str  # name of the model
    bundle_hash: str
    fingerprint: str  # of the run's settings, this export and its libraries

    @property
    def description(self) -> str:
        return (
            f"{PRODUCT} {self.version}: enhanced by a diffusion model (bundle {self.bundle}, "
            f"SHA-256 {self.bundle_hash[:16]}). {NOT_FOR_DIAGNOSIS}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A case with the header of its source, and the seed of its UIDs."""

    case: MappedCase
    header: Dataset  # the elements of COPIED
    seed: str

    def uid(self, *parts: str) -> UID:
        return make_uid(self.seed, *parts)

    @property
    def date(self) -> str:
        return str(self.header.get("ContentDate") or self.header.get("StudyDate") or "19000101")

    @property
    def time(self) -> str:
        return str(self.header.get("ContentTime") or self.header.get("StudyTime") or "000000")


def make_uid(*parts: str) -> UID:
    """2.25 and a UUID of version 5 (PS3.5, B.2): always the same for the same parts."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(parts)).int}")


def make_subject(case: MappedCase, source: Dataset, pixels: str, about: Provenance) -> Subject:
    """source: the header of the first image.  pixels: the hash of the results."""
    header = _copy(source)
    plain = io.BytesIO()
    dcmwrite(plain, header, implicit_vr=False, little_endian=True)
    digest = sha256(plain.getvalue()).hexdigest()
    uids = (x.uid for x in case.sources)
    return Subject(
        case=case, header=header, seed="/".join((about.fingerprint, pixels, digest, *uids))
    )


def _copy(source: Dataset) -> Dataset:
    header = Dataset()
    for name in (*COPIED, "SpecificCharacterSet"):
        if name in source:
            header[name] = deepcopy(source[name])
        elif name in REQUIRED:
            setattr(header, name, "")
    if "SequenceOfUltrasoundRegions" in header:  # the image shows no other region
        regions = header.SequenceOfUltrasoundRegions or ()
        kept = [
            x for x in regions if (x.get("RegionSpatialFormat"), x.get("RegionDataType")) == (1, 1)
        ]
        header.SequenceOfUltrasoundRegions = kept
        if not kept:
            del header.SequenceOfUltrasoundRegions
    return header


def make_image(subject: Subject, results: Results, about: Provenance) -> FileDataset:
    """The derived image."""
    case, header = subject.case, subject.header
    sop_class = CLASSES[case.sources[0].sop_class]
    out = new_file(sop_class, subject.uid("image"))
    for element in header:
        out[element.tag] = deepcopy(element)
    out.SOPClassUID, out.SOPInstanceUID = sop_class, subject.uid("image")
    out.ImageType = ["DERIVED", "SECONDARY"]
    out.InstanceNumber = 1
    out.ContentDate, out.ContentTime = subject.date, subject.time
    out.DerivationDescription = about.description
    out.DerivationCodeSequence = [
        code("113085", "DCM", "Spatial resampling"),
        code("113086", "DCM", "Edge enhancement"),
    ]
    out.SourceImageSequence = [_reference(x.sop_class, x.uid) for x in case.sources]
    out.BurnedInAnnotation = "NO"
    out.LossyImageCompression = header.get("LossyImageCompression") or "00"
    set_series(out, subject, "image", about)
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.Rows, out.Columns = results.image.shape
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 8, 8, 7, 0
    data = np.ascontiguousarray(results.image, np.uint8).tobytes()
    out.PixelData = data + b"\0" * (len(data) % 2)
    if sop_class == MULTI:
        out.NumberOfFrames, out.FrameTime = 1, "0"
        out.FrameIncrementPointer = Tag("FrameTime")
    if sop_class == SecondaryCaptureImageStorage:
        out.ConversionType = "WSD"
        out.Modality = header.get("Modality") or "OT"
    return out


def new_file(sop_class: str, uid: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)


def set_series(out: Dataset, subject: Subject, kind: str, about: Provenance) -> None:
    """The series and the equipment that every result names, in place of the source's."""
    out.SeriesInstanceUID, out.SeriesNumber = subject.uid(f"{kind} series"), SERIES[kind]
    out.SeriesDescription = f"{PRODUCT} {kind}, not for diagnosis"
    out.Manufacturer, out.ManufacturerModelName = PRODUCT, about.bundle[:64]
    out.SoftwareVersions, out.DeviceSerialNumber = about.version, about.bundle_hash[:64]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = PRODUCT, about.bundle[:64]
    equipment.SoftwareVersions, equipment.DeviceSerialNumber = about.version, about.bundle_hash[:64]
    equipment.ContributionDescription = NOT_FOR_DIAGNOSIS
    out.ContributingEquipmentSequence = [equipment]


def code(value: str, scheme: str, meaning: str) -> Dataset:
    out = Dataset()
    out.CodeValue, out.CodingSchemeDesignator, out.CodeMeaning = value, scheme, meaning
    return out


def _reference(sop_class: str, uid: str) -> Dataset:
    out = Dataset()
    out.ReferencedSOPClassUID, out.ReferencedSOPInstanceUID = sop_class, uid
    purpose = code("121322", "DCM", "Source image for image processing operation")
    out.PurposeOfReferenceCodeSequence = [purpose]
    return out


def encode(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def library_versions(names: Iterable[str] = ("mcdiff-batch", "pydicom", "highdicom")) -> str:
    """What the bytes of an export depend on besides its run."""
    return "/".join(f"{name} {package_version(name)}" for name in names)
