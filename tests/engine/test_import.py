"""`import` makes an archive of PNG and TIFF images, or refuses and leaves nothing."""

import errno
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from PIL import Image

from mcdiff_batch.engine.archive import importer
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.importer import import_images
from mcdiff_batch.engine.errors import ArchiveError, SpaceError, UsageError
from tests.support.crafting import command, snapshot


def grey(seed: int = 0, size: tuple[int, int] = (30, 12), dtype: str = "u1") -> npt.NDArray[Any]:
    top = 256 if dtype == "u1" else 65536
    return np.random.default_rng(seed).integers(0, top, size).astype(dtype)


def save(path: Path, values: npt.NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("name", ["scan.png", "scan.tif", "scan.TIFF"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_one_image_is_an_archive_of_one_case_and_one_depth(
    tmp_path: Path, name: str, dtype: str
) -> None:
    source = save(tmp_path / name, grey(dtype=dtype))
    import_images([source], tmp_path / "out.zarr", spacing_mm=0.18)
    archive = open_archive(tmp_path / "out.zarr")
    assert (archive.cases, archive.depths, archive.dtype) == (1, 1, dtype)
    assert [x for x in archive.warnings if "size" not in x] == []
    case = archive.read(0)
    np.testing.assert_array_equal(case.depths[0], grey(dtype=dtype))
    assert (case.key, case.spacing_mm) == ("scan", (0.18, 0.18))


def test_files_of_different_sizes_are_padded_to_one_grid(tmp_path: Path) -> None:
    sizes = [(30, 12), (9, 40), (8, 8)]
    sources = [save(tmp_path / f"{k}.png", grey(k, size)) for k, size in enumerate(sizes)]
    import_images(sources, tmp_path / "out.zarr")
    archive = open_archive(tmp_path / "out.zarr")
    assert archive.grid == (30, 40)
    for k, size in enumerate(sizes):
        np.testing.assert_array_equal(archive.read(k).depths[0], grey(k, size))
    assert np.isnan(archive.read(0).spacing_mm).all()


def test_a_folder_is_a_case_with_depths_in_natural_order(tmp_path: Path) -> None:
    for k in (1, 2, 10):
        save(tmp_path / "anna" / f"depth_{k}.png", grey(k))
    (tmp_path / "anna" / ".hidden").write_text("ignored")
    import_images([tmp_path / "anna"], tmp_path / "out.zarr")
    case = open_archive(tmp_path / "out.zarr").read(0)
    assert case.key == "anna"
    np.testing.assert_array_equal(case.depths, [grey(1), grey(2), grey(10)])


def test_every_folder_in_a_folder_is_a_case_and_depths_it_lacks_are_absent(tmp_path: Path) -> None:
    for case, depths in (("b2", 3), ("b10", 1), ("a", 2)):
        for k in range(depths):
            save(tmp_path / "all" / case / f"{k}.png", grey(k))
    import_images([tmp_path / "all"], tmp_path / "out.zarr")
    archive = open_archive(tmp_path / "out.zarr")
    assert [archive.key(k) for k in range(3)] == ["a", "b2", "b10"]
    present = [archive.read(k).present.tolist() for k in range(3)]
    assert present == [[True, True, False], [True, True, True], [True, False, False]]


def test_cases_can_have_more_depths_than_images(tmp_path: Path) -> None:
    for k in range(2):
        save(tmp_path / "anna" / f"{k}.png", grey(k))
    import_images([tmp_path / "anna"], tmp_path / "five.zarr", depths=5)
    assert open_archive(tmp_path / "five.zarr").read(0).present.sum() == 2
    with pytest.raises(ArchiveError, match="has 2 depths"):
        import_images([tmp_path / "anna"], tmp_path / "one.zarr", depths=1)


def test_importing_twice_makes_the_same_bytes_and_touches_no_source(tmp_path: Path) -> None:
    for case in ("b", "a"):
        for k in range(2):
            save(tmp_path / "all" / case / f"{k}.png", grey(k))
    before = snapshot(tmp_path / "all")
    for name in ("x", "y"):
        import_images([tmp_path / "all"], tmp_path / name, spacing_mm=0.2)
    assert snapshot(tmp_path / "x") == snapshot(tmp_path / "y")
    assert snapshot(tmp_path / "all") == before


def test_the_archive_is_zarr_v3_with_one_checksummed_chunk_per_case(tmp_path: Path) -> None:
    save(tmp_path / "black.png", np.zeros((9, 9), "u1"))
    import_images([tmp_path / "black.png"], tmp_path / "out.zarr", spacing_mm=0.18)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    facts = {"schema": 1, "intensity_range": [0.0, 255.0], "pixel_spacing_mm": [0.18, 0.18]}
    assert group.attrs["mcdiff"] == facts
    depths = group["depths"]
    assert isinstance(depths, zarr.Array)
    assert (depths.metadata.zarr_format, depths.chunks, depths.shards) == (3, (1, 1, 9, 9), None)
    assert "checksum=True" in repr(depths.compressors)
    assert (tmp_path / "out.zarr/depths/c/0/0/0/0").is_file()  # black, and yet written


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colour_images_with_grey_pixels_are_accepted(tmp_path: Path, mode: str) -> None:
    Image.fromarray(grey()).convert(mode).save(tmp_path / "a.png")
    import_images([tmp_path / "a.png"], tmp_path / "out.zarr")
    np.testing.assert_array_equal(open_archive(tmp_path / "out.zarr").read(0).depths[0], grey())


def coloured(path: Path) -> None:
    values = np.stack([grey()] * 3, -1)
    values[3, 3, 1] ^= 1
    save(path, values)


def transparent(path: Path) -> None:
    values = np.stack([grey()] * 4, -1)
    values[..., 3] = 255
    values[3, 3, 3] = 254
    save(path, values)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    def framed(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"\x89PNG\r\n\x1a\n" + b"".join(framed(*x) for x in chunks)


def bomb(path: Path) -> None:
    """100,000 x 100,000 px in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    path.write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000)))))


def warned_bomb(path: Path) -> None:
    """So large that Pillow warns, but raises no error."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    path.write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000)))))


def truncated(path: Path) -> None:
    save(path, grey(size=(300, 200)))
    path.write_bytes(path.read_bytes()[:5000])


def pages(path: Path) -> None:
    first, second = Image.fromarray(grey(0)), Image.fromarray(grey(1))
    first.save(path, format="TIFF", save_all=True, append_images=[second])


REFUSED: dict[str, Any] = {
    "coloured": (coloured, "coloured"),
    "transparent": (transparent, "transparent"),
    "bomb": (bomb, "too many pixels"),
    "warned bomb": (warned_bomb, "too many pixels"),
    "truncated": (truncated, "cannot be read"),
    "pages": (pages, "pages"),
    "text": (lambda x: x.write_text("not an image"), "not a PNG or TIFF"),
    "empty": (lambda x: x.write_bytes(b""), "not a PNG or TIFF"),
    "a jpeg": (lambda x: Image.fromarray(grey()).save(x, format="JPEG"), "not a PNG or TIFF"),
    "floats": (lambda x: Image.fromarray(grey().astype("f4")).save(x, "TIFF"), "pixels are F"),
    "one bit": (lambda x: Image.fromarray(grey()).convert("1").save(x), "pixels are 1"),
    "tiny": (lambda x: save(x, grey(size=(7, 30))), "expected 8"),
    "tiff header alone": (lambda x: x.write_bytes(b"II*\0\x08\0\0\0\xff\xff"), "a.png"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_or_unfit_image_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / "a.png")
    with pytest.raises(ArchiveError, match=message) as caught:
        import_images([tmp_path / "in" / "a.png"], tmp_path / "out.zarr")
    assert "a.png" in str(caught.value)
    assert [x.name for x in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_image_is_imported_or_refused(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path = save(tmp_path / f"a.{('png', 'tif')[seed % 2]}", grey())
    data = bytearray(path.read_bytes())
    for place in random.integers(0, min(len(data), 200), 4):
        data[place] = random.integers(256)
    path.write_bytes(bytes(data))
    try:
        import_images([path], tmp_path / "out.zarr")
    except ArchiveError:
        pass
    else:
        assert open_archive(tmp_path / "out.zarr").cases == 1
    assert len(list(tmp_path.iterdir())) == 1 + (tmp_path / "out.zarr").exists()


def test_contradictions_between_images_are_refused(tmp_path: Path) -> None:
    def refused(message: str, *sources: str) -> None:
        with pytest.raises(ArchiveError, match=message):
            import_images([tmp_path / x for x in sources], tmp_path / "out.zarr")

    save(tmp_path / "a.png", grey())
    save(tmp_path / "deep.png", grey(dtype="u2"))
    save(tmp_path / "a" / "0.png", grey())
    save(tmp_path / "sizes" / "0.png", grey())
    save(tmp_path / "sizes" / "1.png", grey(size=(31, 12)))
    save(tmp_path / "mixed" / "0.png", grey())
    save(tmp_path / "mixed" / "inner" / "0.png", grey())
    save(tmp_path / "noted" / "0.png", grey())
    (tmp_path / "noted" / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    refused("both would be case a", "a.png", "a")
    refused("8 and 16 bit", "a.png", "deep.png")
    refused("expected .*30, 12", "sizes")
    refused("files and folders", "mixed")
    refused("notes.txt", "noted")
    refused("has 0 images", "empty")
    with pytest.raises(UsageError, match="no such file"):
        import_images([tmp_path / "none.png"], tmp_path / "out.zarr")
    save(tmp_path / "\x1b[31mred.png", grey())
    refused("rename", "\x1b[31mred.png")
    assert not (tmp_path / "out.zarr").exists()


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", grey())
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        import_images([source], tmp_path / "out.zarr")
    with pytest.raises(UsageError, match="no such folder"):
        import_images([source], tmp_path / "nowhere" / "out.zarr")
    assert list((tmp_path / "out.zarr").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "a.png", grey())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(importer, "_columns", full)
    with pytest.raises(SpaceError):
        import_images([source], tmp_path / "out.zarr")
    assert [x.name for x in tmp_path.iterdir()] == ["a.png"]


def test_the_command_imports_and_prints_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "a.png", grey())
    words = ("import", source, "--output", tmp_path / "out.zarr", "--pixel-spacing", "0.18")
    assert command(monkeypatch, *words) == 0
    assert "1 cases of 1 depths, u1, up to 30 x 12 px" in capsys.readouterr().out
    assert command(monkeypatch, *words) == 2
    assert "exists already" in capsys.readouterr().err
    assert command(monkeypatch, "import", tmp_path / "b.png", "--output", tmp_path / "c") == 2
