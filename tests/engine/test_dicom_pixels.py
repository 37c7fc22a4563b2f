"""`import --dicom` reads pixels as they are meant, or refuses them with tag and value."""

import shutil
from pathlib import Path
from typing import Any

import data_store
import gdcm
import numpy as np
import pydicom
import pytest
from pydicom import uid as uids
from pydicom.dataset import Dataset

from mcdiff_batch.engine.archive.archive import Case, open_archive
from mcdiff_batch.engine.dicom import uid_map
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.dicom import (
    Change,
    compress,
    make_image,
    multi_frame,
    region,
    save,
    scan,
    set_pixels,
    setting,
    tinted,
    with_class,
    write_cases,
)


def imported(tmp_path: Path, image: Any) -> Case:
    """The case that one image makes."""
    save(tmp_path / "in" / "a.dcm", image)
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    return open_archive(tmp_path / "out.zarr").read(0)


def test_the_frames_of_a_multi_frame_image_are_depths(tmp_path: Path) -> None:
    image = make_image(scan()[0])
    multi_frame(image)
    np.testing.assert_array_equal(imported(tmp_path, image).depths, scan(0, 5))


def colour(image: Any) -> None:
    set_pixels(image, np.stack([scan()[0]] * 3, -1))


def planes(image: Any) -> None:
    """Colour by plane."""
    colour(image)
    image.PlanarConfiguration = 1
    image.PixelData = np.stack([scan()[0]] * 3).tobytes()


def white_is_zero(image: Any) -> None:
    set_pixels(image, 255 - scan()[0], "MONOCHROME1")


def palette(factor: int, bits: int = 16) -> Change:
    """An inverted palette of 256 grey levels."""

    def change(image: Any) -> None:
        set_pixels(image, 255 - scan()[0], "PALETTE COLOR")
        levels = (np.arange(255, -1, -1) * factor).astype("<u2" if bits == 16 else "u1").tobytes()
        for name in ("Red", "Green", "Blue"):
            setattr(image, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
            setattr(image, f"{name}PaletteColorLookupTableData", levels)

    return change


def full_window(image: Any) -> None:
    image.WindowCenter, image.WindowWidth = 128, 256


def ybr(image: Any) -> None:
    """Luminance with neutral colour differences."""
    grey = scan()[0]
    set_pixels(image, np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], -1))
    image.PhotometricInterpretation = "YBR_FULL"


SAME: dict[str, Change] = {
    "as it is": lambda _: None,
    "retired class": with_class("1.2.840.10008.5.1.4.1.1.6"),
    "secondary capture": with_class(uids.SecondaryCaptureImageStorage),
    "grey in colour": colour,
    "grey in planes of colour": planes,
    "grey in YBR": ybr,
    "white is zero": white_is_zero,
    "palette times 257": palette(257),
    "palette times 256": palette(256),
    "palette of 8 bit": palette(1, 8),
    "a window that is everything": full_window,
    "nothing said of text": lambda x: delattr(x, "BurnedInAnnotation"),
    "no orientation": lambda x: delattr(x, "PatientOrientation"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_grey_levels_come_from_every_way_to_store_them(tmp_path: Path, name: str) -> None:
    image = make_image(scan()[0])
    SAME[name](image)
    np.testing.assert_array_equal(imported(tmp_path, image).depths[0], scan()[0])


SYNTAXES = {
    "RLE": gdcm.TransferSyntax.RLELossless,
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "big endian": gdcm.TransferSyntax.ExplicitVRBigEndian,
    "implicit": gdcm.TransferSyntax.ImplicitVRLittleEndian,
}


def test_the_same_grey_levels_come_from_every_lossless_transfer_syntax(tmp_path: Path) -> None:
    for study, name in enumerate(SYNTAXES):
        for series, change in enumerate(("as it is", "grey in colour")):
            image = make_image(scan()[0], study, series)
            SAME[change](image)
            path = save(tmp_path / "in" / name / change, image)
            compress(path, SYNTAXES[name])
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    archive = open_archive(tmp_path / "out.zarr")
    assert archive.cases == 2 * len(SYNTAXES)
    for case in range(archive.cases):
        np.testing.assert_array_equal(archive.read(case).depths[0], scan()[0])


def test_twelve_bits_in_sixteen_keep_their_values_and_their_white(tmp_path: Path) -> None:
    image = make_image(scan()[0])
    values = (scan()[0].astype(np.uint16) * 4095) // 255
    set_pixels(image, values)
    image.BitsStored, image.HighBit = 12, 11
    case = imported(tmp_path, image)
    np.testing.assert_array_equal(case.depths[0], values)
    assert case.intensity_range == (0, 4095)


def test_padding_is_black_whatever_its_value(tmp_path: Path) -> None:
    image = make_image(scan()[0])
    pixels = scan()[0].copy()
    pixels[:5] = 255
    set_pixels(image, pixels)
    image.PixelPaddingValue = 255
    assert (imported(tmp_path, image).depths[0, :5] == 0).all()


def test_the_region_is_cut_out_and_gives_the_spacing_in_mm(tmp_path: Path) -> None:
    full = np.full((60, 40, 3), (200, 0, 90), np.uint8)  # colour and text around the scan
    full[10:50, 20:36] = scan()[0][..., None]
    image = make_image(scan()[0])
    set_pixels(image, full)
    del image.PixelSpacing
    image.BurnedInAnnotation = "YES"
    doppler = region(0, 0, 59, 39)
    doppler.RegionSpatialFormat = 3
    image.SequenceOfUltrasoundRegions = [doppler, region(10, 20, 49, 35, 0.25)]
    image.SequenceOfUltrasoundRegions[1].PhysicalDeltaY = 0.03
    case = imported(tmp_path, image)
    np.testing.assert_array_equal(case.depths[0], scan()[0])
    assert case.spacing_mm == (0.3, 0.25)
    (mapped,) = uid_map.load(tmp_path / "out.zarr.dicom.json").cases
    assert (mapped.rows, mapped.columns, mapped.box.top, mapped.box.left) == (60, 40, 10, 20)


def test_a_given_spacing_is_for_images_that_have_none(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=1)
    silent = make_image(scan(3)[0], study=9)
    del silent.PixelSpacing
    save(tmp_path / "in" / "silent.dcm", silent)
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options(spacing_mm=(2, 2)))
    archive = open_archive(tmp_path / "out.zarr")
    assert {archive.read(k).spacing_mm for k in range(2)} == {(5, 5), (2, 2)}


def regions(*items: Dataset) -> Change:
    return lambda image: setattr(image, "SequenceOfUltrasoundRegions", list(items))


def unit(value: int) -> Dataset:
    out = region(0, 0, 39, 15)
    out.PhysicalUnitsXDirection = value
    return out


REFUSED: dict[str, tuple[Change, str]] = {
    "text in the pixels": (
        setting(BurnedInAnnotation="YES"),
        r"\(0028,0301\) BurnedInAnnotation is YES, expected NO",
    ),
    "text, and a region that is everything": (
        lambda x: (regions(region(0, 0, 39, 15))(x), setting(BurnedInAnnotation="YES")(x)),
        r"\(0028,0301\) BurnedInAnnotation is YES",
    ),
    "colour": (tinted, r"\(0028,0004\) PhotometricInterpretation is RGB, expected .* grey"),
    "spacing said twice": (
        regions(region(0, 0, 39, 15, 0.4)),
        r"\(0028,0030\) PixelSpacing is \[.*5.*\], expected 0.4 x 0.4 mm",
    ),
    "spacing of nothing": (setting(PixelSpacing=[0.5, 0]), r"\(0028,0030\) PixelSpacing"),
    "px that are not square": (
        lambda x: (delattr(x, "PixelSpacing"), setting(PixelAspectRatio=[4, 3])(x)),
        r"\(0028,0034\) PixelAspectRatio is .*4.*3.*, expected square px",
    ),
    "two regions of tissue": (
        regions(region(0, 0, 39, 7), region(0, 8, 39, 15)),
        r"\(0018,6011\) SequenceOfUltrasoundRegions has 2 regions",
    ),
    "a region outside": (regions(region(0, 0, 39, 17)), "columns 0 to 17, expected one inside"),
    "a region upside down": (regions(region(39, 0, 0, 15)), "expected one inside"),
    "a region in seconds": (regions(unit(4)), r"\(0018,602C\) PhysicalDeltaX"),
    "sagittal": (
        setting(PatientOrientation=["P", "F"]),
        r"\(0020,0020\) PatientOrientation is \['P', 'F'\], expected L\\F or R\\F",
    ),
    "head at the bottom": (setting(PatientOrientation=["R", "H"]), "PatientOrientation"),
    "a window": (setting(WindowCenter=100, WindowWidth=50), r"\(0028,1051\) WindowWidth is 50"),
    "two windows": (setting(WindowCenter=[100, 128], WindowWidth=[50, 256]), "WindowWidth"),
    "an inverted display": (
        setting(PresentationLUTShape="INVERSE"),
        r"\(2050,0020\) PresentationLUTShape is INVERSE, expected IDENTITY",
    ),
    "a curved window": (setting(VOILUTFunction="SIGMOID"), r"\(0028,1056\) VOILUTFunction"),
    "a slope": (setting(RescaleSlope=2, RescaleIntercept=0), r"\(0028,1053\) RescaleSlope is 2"),
    "a VOI table": (setting(VOILUTSequence=[Dataset()]), r"\(0028,3010\) VOILUTSequence"),
    "signed": (setting(PixelRepresentation=1), r"\(0028,0103\) PixelRepresentation is 1"),
    "32 bit": (setting(BitsAllocated=32), r"\(0028,0100\) BitsAllocated is 32"),
    "bits in the middle": (setting(HighBit=11), r"\(0028,0102\) HighBit is 11"),
    "too many bits used": (setting(BitsStored=4, HighBit=3), r"\(0028,0101\) BitsStored is 4"),
    "other colours": (
        setting(PhotometricInterpretation="CMYK"),
        "PhotometricInterpretation is CMYK",
    ),
    "a film": (setting(NumberOfFrames=300), r"\(0028,0008\) NumberOfFrames is 300"),
    "tiny": (setting(Rows=4), r"\(0028,0010\) Rows is 4, expected 8"),
    "no rows": (lambda x: delattr(x, "Rows"), r"\(0028,0010\) Rows is absent"),
    "no study": (lambda x: delattr(x, "StudyInstanceUID"), r"\(0020,000D\) .* is absent"),
    "palette of odd levels": (palette(255), r"\(0028,1101\) RedPaletteColor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_with_tag_and_value_and_leaves_nothing(
    tmp_path: Path, name: str
) -> None:
    change, message = REFUSED[name]
    image = make_image(scan()[0])
    change(image)
    save(tmp_path / "in" / "a.dcm", image)
    with pytest.raises(ArchiveError, match=message):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert [x.name for x in tmp_path.iterdir()] == ["in"]


COLOUR = r"PhotometricInterpretation is .*, expected an image that is grey"


SHIPPED = {  # pydicom's ultrasound files -> why they are refused; None: they are read
    "ExplVR_BigEnd.dcm": COLOUR,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": None,
    "OBXXXX1A.dcm": COLOUR,
    "OBXXXX1A_2frame.dcm": COLOUR,
    "OBXXXX1A_expb.dcm": COLOUR,
    "OBXXXX1A_expb_2frame.dcm": COLOUR,
    "OBXXXX1A_rle.dcm": COLOUR,
    "OBXXXX1A_rle_2frame.dcm": COLOUR,
    "US1_J2KI.dcm": COLOUR,
    "US1_J2KR.dcm": COLOUR,
    "US1_UNCI.dcm": COLOUR,
    "US1_UNCR.dcm": COLOUR,
    "color-pl.dcm": r"\(0028,0034\) PixelAspectRatio is \['4', '3'\]",
    "color-px.dcm": r"\(0028,0034\) PixelAspectRatio is \['4', '3'\]",
    "color3d_jpeg_baseline.dcm": r"\(0028,0008\) NumberOfFrames is 120",
    "examples_jpeg2k.dcm": COLOUR,
    "examples_palette.dcm": "a region of rows 60 to 518, columns 120 to 800, expected one inside",
    "examples_rgb_color.dcm": COLOUR,
    "examples_ybr_color.dcm": "a region of rows 31 to 414, columns 84 to 595, expected one inside",
    "gdcm-US-ALOKA-16.dcm": "has 2 regions of tissue",
    "gdcm-US-ALOKA-16_big.dcm": "has 2 regions of tissue",
}


def shipped() -> dict[str, Path]:
    """The ultrasound files of pydicom and pydicom-data, by name."""
    found = {}
    for root in (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent):
        for path in sorted(x for x in root.rglob("*.dcm")):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
            except pydicom.errors.InvalidDicomError:
                continue
            if "Ultrasound" in getattr(header.get("SOPClassUID"), "name", ""):
                found[path.name] = path
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_ultrasound_file_that_pydicom_ships_is_in_the_table() -> None:
    assert set(shipped()) == set(SHIPPED)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", SHIPPED)
def test_pydicoms_ultrasound_files_are_read_right_or_refused_with_a_reason(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(shipped()[name], tmp_path / "in" / name)
    reason = SHIPPED[name]
    if reason is not None:
        with pytest.raises(ArchiveError, match=reason):
            import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
        return
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    case = open_archive(tmp_path / "out.zarr").read(0)
    whole = pydicom.dcmread(tmp_path / "in" / name).pixel_array
    np.testing.assert_array_equal(case.depths[0], whole[38:759, 14:1011])
    assert case.spacing_mm == pytest.approx((0.2548, 0.2548), abs=1e-4)
