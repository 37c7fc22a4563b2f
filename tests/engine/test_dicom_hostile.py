"""Hostile DICOM is refused: nothing is executed, and no more is allocated than it declares."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import command
from tests.support.dicom import compress, make_image, save, scan

MEGABYTE = 1 << 20
Craft = Callable[[Path], object]


def element(group: int, number: int, vr: bytes, data: bytes, length: int | None = None) -> bytes:
    """An element in explicit VR, little endian; `length` is what it claims."""
    size = len(data) if length is None else length
    head = struct.pack("<HH", group, number) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, size) + data
    return head + struct.pack("<H", size & 0xFFFF) + data


def plain(path: Path) -> bytearray:
    save(path, make_image(scan()[0]))
    return bytearray(path.read_bytes())


def replaced(old: bytes, new: bytes) -> Craft:
    """A good image with some of its bytes replaced."""

    def craft(path: Path) -> None:
        data = bytes(plain(path))
        assert old in data
        path.write_bytes(data.replace(old, new))

    return craft


def set_field(name: str, value: Any) -> Craft:
    def craft(path: Path) -> None:
        image = make_image(scan()[0])
        setattr(image, name, value)
        save(path, image)

    return craft


def meta(path: Path) -> bytes:
    """The part of a good file before its data set."""
    data = bytes(plain(path))
    return data[: data.index(struct.pack("<HH", 8, 8))]


def huge_element(path: Path) -> None:
    """A private element that claims 4 GB."""
    path.write_bytes(meta(path) + element(9, 0x1000, b"UN", b"abc", 0xFFFFFFF0))


def huge_meta(path: Path) -> None:
    data = bytes(128) + b"DICM" + element(2, 1, b"OB", b"\0\1")
    path.write_bytes(data + element(2, 0x102, b"OB", b"abc", 0xFFFFFFF0))


def nested(path: Path) -> None:
    """Sequences in sequences, 100,000 deep."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    inner = element(0x18, 0x6011, b"SQ", item, 0xFFFFFFFF)
    path.write_bytes(meta(path) + inner * 100_000)


def deflated(path: Path) -> None:
    """256 MB in one."""
    image = make_image(scan()[0])
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(path, image)
    data = path.read_bytes()
    start = data.index(DeflatedExplicitVRLittleEndian.encode()) + 22
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(256)) + packer.flush()
    path.write_bytes(data[:start] + packed)


def encapsulated(frame: bytes, syntax: str, rows: int = 40, columns: int = 16) -> Craft:
    def craft(path: Path) -> None:
        image = make_image(scan()[0])
        image.Rows, image.Columns = rows, columns
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = encapsulate([frame])
        save(path, image)

    return craft


def rle_bomb() -> bytes:
    """30 MB of runs for an image of 640 px: they would come to 2 GB."""
    return struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * (15 * MEGABYTE)


def jpeg_of_another_size(path: Path) -> None:
    """A JPEG of 65,500 x 65,500 px, where the header says 40 x 16."""
    save(path, make_image(scan()[0]))
    compress(path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    image = pydicom.dcmread(path)
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    at = frame.index(b"\xff\xc3") + 5
    frame[at : at + 4] = struct.pack(">HH", 65500, 65500)
    image.PixelData = encapsulate([bytes(frame)])
    save(path, image)


def jpeg_2000_of_another_size() -> bytes:
    size = struct.pack(">HHIIIIIIIIH3B", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1, 7, 1, 1)
    return b"\xff\x4f\xff\x51" + size + bytes(100)


def cut_jpeg(path: Path) -> None:
    """The second half of the image is gone, and the stream ends as if it were whole."""
    save(path, make_image(scan(0, 1, (200, 120))[0]))
    compress(path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    image = pydicom.dcmread(path)
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    image.PixelData = encapsulate([frame[: len(frame) // 2] + b"\xff\xd9"])
    save(path, image)


def palette_without_table(path: Path) -> None:
    image = make_image(scan()[0])
    image.PhotometricInterpretation = "PALETTE COLOR"
    save(path, image)


HOSTILE: dict[str, tuple[Craft, str]] = {
    "more px than data": (set_field("Rows", 4000), r"\(7FE0,0010\) PixelData has 640 bytes"),
    "more data than px": (set_field("Columns", 8), r"PixelData has 640 bytes, expected 320"),
    "a gigapixel": (set_field("Rows", 65535), "PixelData has 640 bytes"),
    "an element of 4 GB": (huge_element, "."),
    "a header of 4 GB": (huge_meta, "."),
    "sequences without end": (nested, "."),
    "a deflate bomb": (deflated, r"\(0002,0010\) TransferSyntaxUID is Deflated"),
    "an RLE bomb": (encapsulated(rle_bomb(), RLELossless), "RLE segment"),
    "RLE segments without end": (
        encapsulated(struct.pack("<16I", 2**32 - 1, *[64] * 15), RLELossless),
        "RLE segments, expected 1",
    ),
    "a JPEG of another size": (jpeg_of_another_size, r"\(65500, 65500, 1\) rows"),
    "a JPEG 2000 of another size": (
        encapsulated(jpeg_2000_of_another_size(), JPEG2000Lossless),
        r"\(60000, 60000, 1\) rows",
    ),
    "a JPEG that is none": (
        encapsulated(b"\xff\xd8\xff\xd9", "1.2.840.10008.1.2.4.70"),
        "not JPEG",
    ),
    "half a JPEG": (cut_jpeg, "PixelData is damaged"),
    "a frame of nothing": (encapsulated(b"\0\0", RLELossless), "0 RLE segments, expected 1"),
    "a palette without a table": (palette_without_table, "."),
    "a UID that is a path": (
        replaced(b"1.2.826.0.1.3680043.8.498.1.1.1", b"../../../../../../../tmp/hacked"),
        r"\(0008,0018\) SOPInstanceUID is \.\./",
    ),
    "a UID that is too long": (set_field("StudyInstanceUID", "1." * 40 + "1"), "UID of digits"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_is_allocated_for_its_claims(
    tmp_path: Path, name: str
) -> None:
    craft, message = HOSTILE[name]
    (tmp_path / "in").mkdir()
    craft(tmp_path / "in" / "a.dcm")
    size = (tmp_path / "in" / "a.dcm").stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=message):
            import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * size + 16 * MEGABYTE
    assert [x.name for x in tmp_path.iterdir()] == ["in"]


def test_p10_text_of_a_file_is_escaped_and_cut_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = b"MONOCHROME2 "
    for index, text in enumerate(
        (b"\x1b[31mred\x07!", b"<script>x()<", "\u202eabcdefghi".encode())
    ):
        path = tmp_path / "in" / f"{index}.dcm"
        path.parent.mkdir(exist_ok=True)
        save(path, make_image(scan()[0], study=index + 1))
        path.write_bytes(path.read_bytes().replace(old, text[:12].ljust(12)))
    words = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "out.zarr")
    assert command(monkeypatch, *words) == 4
    printed = "".join(capsys.readouterr())
    assert "PhotometricInterpretation is" in printed
    assert all(x.isprintable() or x == "\n" for x in printed)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("length", range(0, 1500, 60))
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(
    tmp_path: Path, length: int
) -> None:
    (tmp_path / "in").mkdir()
    data = bytes(plain(tmp_path / "in" / "a.dcm"))
    (tmp_path / "in" / "a.dcm").write_bytes(data[:length])
    assert length < len(data)
    with pytest.raises(ArchiveError):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert [x.name for x in tmp_path.iterdir()] == ["in"]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_damaged_file_is_imported_or_refused_and_none_ends_the_import(
    tmp_path: Path,
) -> None:
    kinds = (
        *(None, gdcm.TransferSyntax.RLELossless, gdcm.TransferSyntax.JPEGLSLossless),
        *(gdcm.TransferSyntax.JPEGLosslessProcess14_1, gdcm.TransferSyntax.JPEG2000Lossless),
        gdcm.TransferSyntax.JPEGBaselineProcess1,
    )
    for seed in range(120):
        random = np.random.default_rng(seed)
        path = save(tmp_path / "in" / f"{seed}.dcm", make_image(scan()[0], study=seed))
        if kind := kinds[seed % len(kinds)]:
            compress(path, kind)
        data = bytearray(path.read_bytes())
        for place in random.integers(132, len(data), 3):
            data[place] = random.integers(256)
        path.write_bytes(data)
    good = save(tmp_path / "in" / "z.dcm", make_image(scan()[0], study=500))
    compress(good, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options(skip_refused=True))
    assert (
        made.cases
        + made.left_out
        + sum(int(x.split()[0]) for x in made.notes if "not imported" in x)
        == 121
    )
    archive = open_archive(tmp_path / "out.zarr")
    images = [archive.read(k).depths[0] for k in range(archive.cases)]
    assert any(x.shape == scan()[0].shape and (x == scan()[0]).all() for x in images)
