"""The label map as a DICOM segmentation, and the curve angles as a structured report (TID 1500).

highdicom writes both; what it takes from the clock or draws at random is put right afterwards.
"""

from copy import deepcopy

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes

from mcdiff_batch.engine.image.columns import CONFIDENCE, LEVELS, LUMBAR, THORACIC

from .derived import (
    NOT_FOR_DIAGNOSIS,
    Provenance,
    Results,
    Subject,
    make_uid,
    set_series,
)
from .headers import PRODUCT
from .layout import CLASSES, MULTI, SINGLE

OWN = "99MCDIFF"  # coding scheme of what no public one has
BONES = {  # class of a bundle -> SNOMED CT, as DICOM's context groups 6115 and 7151 have it
    "transverse process": ("73400003", "SCT", "Transverse process of vertebra"),
    "rib": ("113197003", "SCT", "Rib"),
    "lumbar lump": ("122496007", "SCT", "Lumbar spine"),
}
SITES = {THORACIC.name: codes.SCT.ThoracicSpine, LUMBAR.name: codes.SCT.LumbarSpine}


def make_segmentation(
    image: FileDataset, subject: Subject, results: Results, about: Provenance
) -> FileDataset | None:
    """One segment for each class; None where the label map is empty."""
    if not results.labels.any():
        return None
    family = codes.DCM.ArtificialIntelligence
    algorithm = AlgorithmIdentificationSequence(name=PRODUCT, family=family, version=about.version)
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_bone(name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(results.classes[1:], 1)
    ]
    uid = subject.uid("segmentation")
    out = Segmentation(
        source_images=[_plain(image)],
        pixel_array=np.ascontiguousarray(results.labels),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=subject.uid("segmentation series"),
        series_number=1,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=about.bundle[:64],
        software_versions=about.version,
        device_serial_number=about.bundle_hash[:64],
        content_label="BONE",
        content_description=f"Label map of the enhanced image. {NOT_FOR_DIAGNOSIS}"[:64],
    )
    dimension = subject.uid("dimension")
    out.PatientOrientation = subject.header.PatientOrientation
    for item in (*out.DimensionOrganizationSequence, *out.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension
    _finish(out, subject, "segmentation", about)
    return out


def _plain(image: FileDataset) -> Dataset:
    """The image as highdicom takes it.

    It would look for functional groups in a multi-frame image of ultrasound, and does not know all
    character sets; `_finish` puts the right class and set back.
    """
    plain = deepcopy(image)
    if plain.SOPClassUID == MULTI:
        plain.SOPClassUID = SINGLE
    plain.SpecificCharacterSet = "ISO_IR 192"
    return plain


def _bone(name: str) -> CodedConcept:
    return CodedConcept(*BONES.get(name, (name.upper().replace(" ", "_")[:16], OWN, name[:64])))


def make_report(
    image: FileDataset, subject: Subject, results: Results, about: Provenance
) -> FileDataset | None:
    """Curve angles, their confidence and the vertebral levels; None where none is defined."""
    groups = [
        _group(column.name, column.title, image, subject, results, about)
        for column in (THORACIC, LUMBAR)
        if results.quality.get(column.after) is not None
    ]
    if not groups:
        return None
    device = DeviceObserverIdentifyingAttributes(
        uid=make_uid("device", about.bundle_hash), name=PRODUCT, model_name=about.bundle[:64]
    )
    observer = ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.DiagnosticUltrasonography,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    lines = (about.description, *(f"Flagged: {x}" for x in results.flags))
    report[0].ContentSequence.extend(
        TextContentItem(name=codes.DCM.Comment, value=x, relationship_type="CONTAINS")
        for x in lines
    )
    out = Comprehensive3DSR(
        evidence=[_plain(image)],
        content=report[0],
        series_instance_uid=subject.uid("report series"),
        series_number=1,
        sop_instance_uid=subject.uid("report"),
        instance_number=1,
        manufacturer=PRODUCT,
        is_complete=True,
        is_final=False,
    )
    _finish(out, subject, "report", about)
    return out


def _group(
    name: str, title: str, image: FileDataset, subject: Subject, results: Results, about: Provenance
) -> MeasurementsAndQualitativeEvaluations:
    values = {
        ("UCA", "Ultrasound curve angle", codes.UCUM.Degree): (  # of the finding site
            results.quality.get(f"{name}_after")
        ),
        ("UCA_CONFIDENCE", "Confidence in the curve angles, 0 to 1", codes.UCUM.NoUnits): (
            results.quality.get(CONFIDENCE.name)
        ),
        ("LEVELS", "Vertebral levels that the label map shows", codes.UCUM.NoUnits): (
            results.quality.get(LEVELS.after)
        ),
    }
    algorithm = AlgorithmIdentification(name=PRODUCT, version=about.version)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=subject.uid("tracking", name), identifier=title),
        finding_sites=[FindingSite(anatomic_location=SITES[name])],
        measurements=[
            Measurement(
                name=CodedConcept(short, OWN, meaning),
                value=round(float(value), 4),
                unit=unit,
                algorithm_id=algorithm,
            )
            for (short, meaning, unit), value in values.items()
            if value is not None
        ],
        source_images=[SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )


def _finish(out: Dataset, subject: Subject, kind: str, about: Provenance) -> None:
    """Puts the case's facts in the place of the clock's.  Only the image is referenced."""
    set_series(out, subject, kind, about)
    out.ContentDate, out.ContentTime = subject.date, subject.time
    for name in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if name in out:
            del out[name]
    for element in out.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = CLASSES[subject.case.sources[0].sop_class]
    if "SpecificCharacterSet" in subject.header:
        out["SpecificCharacterSet"] = subject.header["SpecificCharacterSet"]
    elif "SpecificCharacterSet" in out:
        del out.SpecificCharacterSet
