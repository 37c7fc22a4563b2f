"""What headers of image files say is honoured, or the file is refused; system files are none."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.importer import NewArchive, import_images
from mcdiff_batch.engine.errors import ArchiveError, UsageError
from tests.support.crafting import command

Values = npt.NDArray[Any]
TURNS = {  # the stored image, from the upright one
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x, -1),
}


def grey(top: int = 255, size: tuple[int, int] = (30, 12)) -> Values:
    values = np.random.default_rng(0).integers(0, top + 1, size)
    values.flat[:2] = 0, top
    return values.astype("u1" if top < 256 else "u2")


def tiff(path: Path, values: Values, bits: int = 16, endian: str = "<", **tags: Any) -> Path:
    """Writes an uncompressed TIFF with any tags, as number and value; `values` as 12 or 16 bit."""
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        first, second = pairs.T
        packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
        data = np.stack(packed, axis=1).astype("u1").tobytes()
    else:
        data = values.astype(f"{endian}u{bits // 8}").tobytes()
    numbers = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: 1, 273: 8}
    numbers |= {277: 1, 278: values.shape[0], 279: len(data)}
    numbers |= {int(name.lstrip("t")): value for name, value in tags.items()}
    entries = b"".join(
        struct.pack(f"{endian}HHI", tag, 3 if tag != 279 else 4, 1)
        + struct.pack(f"{endian}I" if tag == 279 else f"{endian}Hxx", value)
        for tag, value in sorted(numbers.items())
    )
    head = struct.pack(f"{endian}2sHI", b"II" if endian == "<" else b"MM", 42, 8 + len(data))
    count = struct.pack(f"{endian}H", len(numbers))
    path.write_bytes(head + data + count + entries + bytes(4))
    return path


def imported(source: Path, **options: Any) -> Values:
    """The only image of a source, after an import."""
    output = source.parent / "out.zarr"
    import_images([source], output, **options)
    pixels: Values = open_archive(output).read(0).depths[0]
    return pixels


def planned(source: Path, **options: Any) -> NewArchive:
    return import_images([source], source.parent / "out.zarr", **options)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "png"])
def test_a_turned_image_is_imported_upright(
    tmp_path: Path, orientation: int, top: int, compression: str | None
) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](grey(top))))
    path = tmp_path / f"a.{'png' if compression == 'png' else 'tif'}"
    if compression == "png":
        exif = Image.Exif()
        exif[274] = orientation
        stored.save(path, exif=exif)
    else:
        stored.save(path, tiffinfo={274: orientation}, compression=compression)
    np.testing.assert_array_equal(imported(path), grey(top))


def test_a_turned_case_beside_a_larger_one_keeps_its_extent_and_pixels(tmp_path: Path) -> None:
    for name, turn, size in (("turned", 8, (20, 11)), ("large", 1, (50, 60))):
        (tmp_path / "all" / name).mkdir(parents=True)
        stored = Image.fromarray(np.ascontiguousarray(TURNS[turn](grey(size=size))))
        stored.save(tmp_path / "all" / name / "0.tif", tiffinfo={274: turn})
    import_images([tmp_path / "all"], tmp_path / "out.zarr")
    case = open_archive(tmp_path / "out.zarr").read(1)
    assert case.key == "turned"
    np.testing.assert_array_equal(case.depths[0], grey(size=(20, 11)))


@pytest.mark.parametrize("turn", [1, 6])
def test_white_is_zero_comes_out_the_right_way_round(tmp_path: Path, turn: int) -> None:
    for bits, top in ((8, 255), (16, 65535)):
        (tmp_path / str(bits)).mkdir()
        stored = top - TURNS[turn](grey(top))
        path = tiff(tmp_path / str(bits) / "a.tif", stored, bits, t262=0, t274=turn)
        np.testing.assert_array_equal(imported(path), grey(top))


@pytest.mark.parametrize("size", [(30, 12), (8, 8)])
def test_a_tiff_of_12_bit_has_its_own_white(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tiff(tmp_path / "a.tif", grey(4095, size), 12)
    np.testing.assert_array_equal(imported(path), grey(4095, size))
    assert open_archive(tmp_path / "out.zarr").intensity_range == (0, 4095)


def test_a_palette_in_reverse_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(255 - grey())
    image.putpalette([x for k in range(255, -1, -1) for x in (k, k, k)])
    for name in ("a.png", "a.tif"):
        (tmp_path / name[2:]).mkdir()
        image.save(tmp_path / name[2:] / name)
        np.testing.assert_array_equal(imported(tmp_path / name[2:] / name), grey())


def png(path: Path, depth: int, kind: int, row: bytes, *chunks: tuple[bytes, bytes]) -> Path:
    """Writes a PNG of 9 rows of 9 px."""
    header = struct.pack(">IIBBBBB", 9, 9, depth, kind, 0, 0, 0)
    body = (b"IDAT", zlib.compress((b"\0" + row) * 9))
    parts = [(b"IHDR", header), *chunks, body, (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x))
        for name, x in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_what_could_only_be_read_with_a_loss_is_refused(tmp_path: Path) -> None:
    wide, path = bytes(range(9)), tmp_path / "a.png"
    made = {
        "16 bit with alpha": lambda: png(
            path, 16, 4, b"".join(bytes([x, 1, 255, 255]) for x in wide)
        ),
        "16 bit colour": lambda: png(path, 16, 2, b"".join(bytes([x, 1] * 3) for x in wide)),
        "16 bit, one grey clear": lambda: png(
            path, 16, 0, b"".join(bytes([x, 1]) for x in wide), (b"tRNS", b"\3\1")
        ),
        "8 bit, one grey clear": lambda: png(path, 8, 0, wide, (b"tRNS", b"\0\3")),
        "1 bit": lambda: png(path, 1, 0, b"\xf0\x80"),
        "32 bit": lambda: Image.fromarray(grey().astype("i4")).save(path.with_suffix(".tif")),
        "floats": lambda: Image.fromarray(grey().astype("f4")).save(path.with_suffix(".tif")),
        "signed 8 bit": lambda: tiff(path.with_suffix(".tif"), grey(), 8, t339=2),
        "signed 16 bit": lambda: tiff(path.with_suffix(".tif"), grey(9999), t339=2),
    }
    for make in made.values():
        make()
        (written,) = (x for x in tmp_path.iterdir() if x.stem == "a")
        with pytest.raises(ArchiveError, match=r"a\.(png|tif): .*expected grey.*; convert"):
            planned(written)
        written.unlink()


def test_pages_are_refused_with_what_splits_them(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(grey()) for _ in range(5))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with pytest.raises(ArchiveError, match="`tiffsplit FILE depth_`"):
        planned(tmp_path / "a.tif")


def test_images_of_different_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    tiff(tmp_path / "case" / "0.tif", grey(4095), 12)
    tiff(tmp_path / "case" / "1.tif", grey(65535))
    with pytest.raises(ArchiveError, match=r"16 bit; expected .* 12 bit"):
        planned(tmp_path / "case")


# --- range and spacing


def test_images_that_use_little_of_their_range_give_a_warning_and_the_option_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faint").mkdir()
    for k, top in enumerate((1023, 1000, 16383)):
        Image.fromarray(grey(top)).save(tmp_path / "faint" / f"{k}.png")
    words = ("import", *sorted((tmp_path / "faint").iterdir()), "--output")
    assert command(monkeypatch, *words, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert "warning: 3 of 3 cases use values from " in printed
    assert "0 and 16383, with --intensity-range" in printed
    option = ("--intensity-range", 0, 16383)
    assert command(monkeypatch, *words, tmp_path / "b", *option) == 0
    assert "2 of 3 cases use" in capsys.readouterr().out
    assert open_archive(tmp_path / "b").intensity_range == (0, 16383)
    assert command(monkeypatch, *words, tmp_path / "c", "--intensity-range", 0, 1023) == 0
    assert "1 of 3 cases have values outside 0 to 1023" in capsys.readouterr().out
    assert command(monkeypatch, *words, tmp_path / "d", "--intensity-range", 9, 9) == 2
    assert "exchange" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "dpi", "said"),
    [
        ("a.png", 25.4 / 0.18, "0.18 mm"),
        ("a.tif", 25.4 / 0.45, "0.45 mm"),
        ("a.png", 72, ""),
        ("a.png", 96, ""),
        ("a.tif", 300, ""),
        ("a.tif", 1, ""),
        ("a.png", 5000, ""),
    ],
)
def test_a_resolution_is_offered_as_a_spacing_where_it_can_be_one(
    tmp_path: Path, name: str, dpi: float, said: str
) -> None:
    Image.fromarray(grey()).save(tmp_path / name, dpi=(dpi, dpi))
    offered = [x for x in planned(tmp_path / name).warnings if "say that a pixel is" in x]
    assert len(offered) == bool(said)
    assert said in " ".join(offered)
    assert not said or f"--pixel-spacing {said.split()[0]}," in offered[0]


def test_a_resolution_of_px_that_are_no_squares_is_offered_as_y_and_x(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(grey()).save(source, dpi=(25.4 / 4, 25.4 / 5))
    assert "say" not in " ".join(planned(source).warnings)  # 4 mm are too much for a px
    Image.fromarray(grey()).save(source, dpi=(25.4 / 0.2, 25.4 / 0.5))
    words = ("import", source, "--output")
    assert command(monkeypatch, *words, tmp_path / "a.zarr") == 0
    assert "0.5 x 0.2 mm (y, x)" in (said := capsys.readouterr().out)
    assert "--pixel-spacing 0.5,0.2" in said
    assert command(monkeypatch, *words, tmp_path / "b.zarr", "--pixel-spacing", "0.5,0.2") == 0
    assert "say that" not in capsys.readouterr().out
    assert open_archive(tmp_path / "b.zarr").spacing_mm == (0.5, 0.2)
    assert command(monkeypatch, *words, tmp_path / "c.zarr", "--pixel-spacing", "5") == 0
    assert "--pixel-spacing says 5 x 5 mm" in capsys.readouterr().out
    for wrong in ("0", "-1", "1,2,3", "wide", "1,", "nan", "101"):
        assert command(monkeypatch, *words, tmp_path / "d", "--pixel-spacing", wrong) == 2


def test_the_unit_of_imagej_is_understood(tmp_path: Path) -> None:
    Image.fromarray(grey()).save(
        tmp_path / "a.tif",
        tiffinfo={270: "ImageJ=1.53t\nunit=cm\n", 282: 50.0, 283: 50.0, 296: 1},
    )
    assert "a pixel is 0.2 mm" in " ".join(planned(tmp_path / "a.tif").warnings)


# --- what lies beside the images

JUNK = ("Thumbs.db", "ehthumbs.db", "DESKTOP.INI", ".DS_Store", "._0.png", "Icon\r", "~$a.png")
JUNK += ("notes.tmp", "list.txt~", ".nfs0001", "0.png:Zone.Identifier", "0.png@SynoEAStream")
FOLDERS = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", ".git")


def test_system_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    for folder in (tmp_path / "all", tmp_path / "all" / "a"):
        folder.mkdir()
        for name in JUNK:
            (folder / name).write_bytes(b"x")
        for name in FOLDERS:
            (folder / name).mkdir()
    Image.fromarray(grey()).save(tmp_path / "all" / "a" / "0.png")
    new = planned(tmp_path / "all")
    assert [x.name for x in new.scans] == ["a"]
    assert new.warnings[0].startswith(f"{2 * (len(JUNK) + len(FOLDERS))} hidden and system files")
    sources = [tmp_path / "all" / "Thumbs.db", tmp_path / "all" / "a" / "0.png"]  # scans/*
    assert len(import_images(sources, tmp_path / "b.zarr").scans) == 1


@pytest.mark.parametrize(
    "name", ["0.png.tmp", "1.tif~", "0.png.part", "notes.txt", "a.db", "x.dcm"]
)
def test_any_other_file_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(grey()).save(tmp_path / "a" / "0.png")
    (tmp_path / "a" / name).write_bytes(b"x")
    with pytest.raises(ArchiveError, match="move it away"):
        planned(tmp_path / "a")


def test_a_link_to_an_image_is_one_and_a_link_without_content_says_how_to_fetch_it(
    tmp_path: Path,
) -> None:
    content = tmp_path / ".git" / "annex" / "objects" / "SHA256E-s9--1.png"
    content.parent.mkdir(parents=True)
    Image.fromarray(grey()).save(content)
    (tmp_path / "a").mkdir()
    link = tmp_path / "a" / "0.png"
    link.symlink_to(Path("..") / content.relative_to(tmp_path))
    np.testing.assert_array_equal(imported(tmp_path / "a"), grey())
    content.unlink()
    for source in (link, tmp_path / "a"):
        with pytest.raises(ArchiveError, match="git annex get"):
            import_images([source], tmp_path / "b.zarr")
    link.unlink()
    link.symlink_to("elsewhere.png")
    with pytest.raises(ArchiveError, match="a link to a file that is not there"):
        import_images([link], tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("text", "command_"),
    [
        ("/annex/objects/SHA256E-s9--1.png\n", "git annex get"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_a_file_that_only_points_to_its_content_says_how_to_fetch_it(
    tmp_path: Path, text: str, command_: str
) -> None:
    (tmp_path / "0.png").write_text(text)
    with pytest.raises(ArchiveError, match=command_):
        planned(tmp_path / "0.png")


def test_an_output_inside_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all" / "a").mkdir(parents=True)
    Image.fromarray(grey()).save(tmp_path / "all" / "a" / "0.png")
    (tmp_path / "link").symlink_to(tmp_path / "all")
    for output in (
        tmp_path / "all" / "x.zarr",
        tmp_path / "all" / "a" / "x",
        tmp_path / "link" / "x",
    ):
        with pytest.raises(UsageError, match="choose another --output, such as"):
            import_images([tmp_path / "all"], output)
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_gives_one_line_which_is_ours(
    tmp_path: Path,
    compression: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """libtiff prints from C, on the descriptor of stderr."""
    path = tmp_path / "a.tif"
    Image.fromarray(grey(size=(200, 90))).save(path, compression=compression)
    with Image.open(path) as stored:
        (start,), (size,) = stored.tag_v2[273], stored.tag_v2[279]  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[start + 10 : start + size - 10] = b"\xff" * (size - 20)
    path.write_bytes(data)
    assert command(monkeypatch, "import", path, "--output", tmp_path / "out.zarr") == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ")
