"""`verify` names what is damaged, and `run --repair` does that again and nothing else."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Drained, Exit, UsageError
from mcdiff_batch.engine.run.enhance import enhance, repair
from tests.support.crafting import CLI, command
from tests.support.fake import FakeMaker
from tests.support.running import archive, break_case, bundle, committed, inline, job

CASES = 7  # in units of 2
Night = tuple[Path, Path]  # archive, output
Again = tuple[list[object], Path, Path]  # words of the command, archive, output


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the fake plan, with one case that failed."""
    folder = tmp_path_factory.mktemp("fake")
    source = archive(folder / "night.zarr", CASES)
    break_case(source, 6)
    inline(job(source, folder / "night.enhanced", unit_size=2))
    return folder


@pytest.fixture
def night(fake: Path, tmp_path: Path) -> Night:
    shutil.copytree(fake, tmp_path / "fake")
    return tmp_path / "fake/night.zarr", tmp_path / "fake/night.enhanced"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by the command line, with a bundle."""
    folder = tmp_path_factory.mktemp("real")
    source = archive(folder / "night.zarr", CASES)
    break_case(source, 6)
    more = ["--unit-size", "2"]
    words = run_words(source, bundle(folder / "tiny"))
    done = subprocess.run([*CLI, *map(str, words), *more], capture_output=True, text=True)
    assert done.returncode == Exit.FAILED_CASES, done.stderr
    return folder


@pytest.fixture
def again(real: Path, tmp_path: Path) -> Again:
    shutil.copytree(real, tmp_path / "real")
    source, model, out = (tmp_path / "real" / x for x in ("night.zarr", "tiny", "night.enhanced"))
    return run_words(source, model), source, out


def run_words(source: Path, model: Path) -> list[object]:
    return ["run", source, "--bundle", model]


def flip(path: Path, at: int = -9) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


RECORD, SHARD = "ledger/000001.json", "images.zarr/label/c/1/0/0"
DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a flipped bit in a shard": (SHARD, flip),
    "a deleted shard": (SHARD, Path.unlink),
    "an empty shard": (SHARD, lambda x: x.write_bytes(b"") and None),
    "a record cut in its head": (RECORD, lambda x: cut(x, 0.1)),
    "a record cut in its cases": (RECORD, lambda x: cut(x, 0.9)),
    "a record without a case": (RECORD, lambda x: edit(x, '"cases":[', '"cases":[],"old":[')),
    "a record with other counts": (RECORD, lambda x: edit(x, '"done":2', '"done":1')),
    "a record with another quality": (RECORD, lambda x: edit(x, '_after":', '_after":1')),
    "a deleted record": (RECORD, Path.unlink),
    "the record of another unit": (RECORD, lambda x: edit(x, '"unit":1', '"unit":2')),
    "a cut manifest": ("manifest.json", lambda x: cut(x, 0.5)),
    "a manifest with other counts": (
        "manifest.json",
        lambda x: edit(x, '"failed": 1', '"failed": 0'),
    ),
    "a manifest that lost a shard": (
        "manifest.json",
        lambda x: edit(x, f'"{SHARD}"', '"images.zarr/label/c/9/0/0"'),
    ),
    "a flipped bit in a column": ("images.zarr/status/c/0", flip),
    "a deleted column": ("images.zarr/levels_after/c/0", Path.unlink),
    "metadata of a column that are no JSON": (
        "images.zarr/flagged/zarr.json",
        lambda x: cut(x, 0.5),
    ),
    "metadata of the group that are no JSON": ("images.zarr/zarr.json", lambda x: cut(x, 0.5)),
    "metadata of an image array, deleted": ("images.zarr/enhanced/zarr.json", Path.unlink),
    "metadata with another shape": (
        "images.zarr/enhanced/zarr.json",
        lambda x: edit(x, f"{CASES},", f"{CASES + 1},"),
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_repaired_and_nothing_else_is_touched(
    night: Night, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = night
    clean = committed(out)
    name, harm = DAMAGES[kind]
    harm(out / name)
    others = [x for x in out.rglob("c/[023]/0/0") if x.is_file()]
    others += [out / f"ledger/{x:06d}.json" for x in (0, 2, 3)]
    before = {x: (x.stat().st_ino, x.stat().st_mtime_ns) for x in others}
    capsys.readouterr()
    assert command(monkeypatch, "verify", out) == Exit.VERIFICATION_FAILED
    said = capsys.readouterr()
    assert [x for x in said.out.splitlines() if x.startswith(name)], said.out
    if name == SHARD:
        assert f"record {RECORD}" in said.out
    assert f"mcdiff-batch run {source} --bundle BUNDLE --repair" in said.err
    asked = job(source, out, unit_size=2)
    repaired, kept = repair(asked)
    assert (name in [x.name for x in repaired], kept) == (True, [])
    inline(asked)
    assert committed(out) == clean
    assert {x: (x.stat().st_ino, x.stat().st_mtime_ns) for x in others} == before
    assert command(monkeypatch, "verify", out) == Exit.DONE


def test_several_damages_are_repaired_at_once_and_a_sound_output_stays_as_it_is(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, out = again
    clean = committed(out)
    flip(out / "images.zarr/enhanced/c/0/0/0")
    (out / "images.zarr/label/c/2/0/0").unlink()
    cut(out / "ledger/000003.json", 0.5)
    (out / "manifest.json").unlink()
    assert command(monkeypatch, *words, "--repair") == Exit.FAILED_CASES
    assert committed(out) == clean
    files = {x: x.stat().st_mtime_ns for x in out.rglob("*") if "report" not in x.parts}
    capsys.readouterr()
    assert command(monkeypatch, *words, "--repair") == Exit.FAILED_CASES
    assert "repair: no file is damaged" in capsys.readouterr().err
    assert {x: x.stat().st_mtime_ns for x in files if x.is_file() and x.name != ".lock"} == {
        x: time for x, time in files.items() if x.is_file() and x.name != ".lock"
    }


def test_a_run_without_repair_does_a_cut_record_again(
    again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, _, out = again
    clean = committed(out)
    cut(out / "ledger/000001.json", 0.9)
    (out / "manifest.json").unlink()
    assert command(monkeypatch, *words) == Exit.FAILED_CASES
    assert committed(out) == clean


def test_a_run_that_is_stopped_before_it_does_a_cut_record_again_is_not_finished(
    tmp_path: Path,
) -> None:
    source = archive(tmp_path / "cut.zarr", 4)
    out = tmp_path / "cut.enhanced"
    inline(job(source, out, unit_size=2))
    clean = committed(out)
    cut(out / "ledger/000001.json", 0.9)
    stop = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Drained, match="run the same command again"):
        enhance(job(source, out, unit_size=2), FakeMaker(), stop)
    assert not (out / "manifest.json").exists()
    inline(job(source, out, unit_size=2))
    assert committed(out) == clean


def test_metadata_that_were_damaged_while_a_run_was_stopped_are_written_again(
    again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, _, out = again
    clean = committed(out)
    (out / "ledger/000002.json").unlink()
    (out / "manifest.json").unlink()
    edit(out / "images.zarr/zarr.json", "grid", "gird")
    assert command(monkeypatch, *words) == Exit.FAILED_CASES
    assert committed(out) == clean


def test_an_image_that_the_archive_has_lost_is_kept(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 2 is damaged in the output; case 3 of its unit is whole, but gone from the archive."""
    words, source, out = again
    flip(out / "images.zarr/enhanced/c/1/0/0", 20)
    (source / "depths/c/3/0/0/0").unlink()
    before = committed(out)
    assert command(monkeypatch, *words, "--repair") == Exit.VERIFICATION_FAILED
    said = capsys.readouterr().err
    assert "not repaired: images.zarr/enhanced/c/1/0/0 was changed: case 2; " in said
    assert "1 file could not be repaired" in said
    assert committed(out) == before


def test_damaged_settings_cannot_be_repaired_and_verify_says_what_to_do(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, out = again
    before = committed(out)
    cut(out / "run.json", 0.5)
    flip(out / SHARD)
    assert command(monkeypatch, "verify", out) == Exit.VERIFICATION_FAILED
    said = capsys.readouterr()
    assert "run.json cannot be read" in said.out
    assert f"{SHARD} was changed" in said.out
    assert "copy it from a backup, or run again with a new --output" in said.err
    assert command(monkeypatch, *words, "--repair") == Exit.USAGE
    flip(out / SHARD)
    assert committed(out) == before


def test_the_dry_run_of_a_repair_writes_nothing(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, out = again
    flip(out / SHARD)
    before = {x: x.stat().st_mtime_ns for x in out.rglob("*")}
    capsys.readouterr()
    assert command(monkeypatch, *words, "--repair", "--dry-run") == Exit.DONE
    said = capsys.readouterr()
    assert f"damaged: {SHARD} was changed" in said.err
    assert "2 cases in 1 unit" in said.out
    assert {x: x.stat().st_mtime_ns for x in out.rglob("*")} == before


def test_a_folder_in_the_place_of_a_file_is_for_the_user_to_move(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = night
    (out / SHARD).unlink()
    (out / SHARD).mkdir()
    before = committed(out)
    assert command(monkeypatch, "verify", out) == Exit.VERIFICATION_FAILED
    assert f"{SHARD} cannot be read (Is a directory)" in capsys.readouterr().out
    with pytest.raises(UsageError, match="is a folder, expected a file; move it away"):
        repair(job(source, out, unit_size=2))
    assert committed(out) == before


def test_lost_folders_are_written_again(night: Night) -> None:
    source, out = night
    clean, asked = committed(out), job(source, out, unit_size=2)
    for names in (("images.zarr",), ("ledger",), ("images.zarr/status", "images.zarr/label")):
        for name in names:
            shutil.rmtree(out / name)
        assert repair(asked)[1] == []
        inline(asked)
        assert committed(out) == clean


def test_verify_says_that_a_run_is_not_complete(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = night
    (out / "manifest.json").unlink()
    assert command(monkeypatch, "verify", out) == Exit.DONE
    assert "as they were committed; the run is not complete" in capsys.readouterr().out


def test_verify_in_json_names_files_records_and_remedy(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, source, out = again
    capsys.readouterr()
    assert command(monkeypatch, "verify", out, "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"damaged": [], "remedy": ""}
    (out / SHARD).unlink()
    assert command(monkeypatch, "verify", out, "--json") == Exit.VERIFICATION_FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["damaged"] == [
        {"name": SHARD, "what": "is missing", "cases": [2, 3], "unit": 1, "record": RECORD}
    ]
    assert f"mcdiff-batch run {source}" in document["remedy"]


def test_what_a_manifest_names_is_neither_read_outside_nor_printed_raw(
    again: Again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, out = again
    path = out / "manifest.json"
    document = json.loads(path.read_text())
    for name in ("../../etc/passwd", "images.zarr/\x1b[31m/c/0", "ledger/../x.json", "/c/"):
        document["files"][name] = "0" * 64
    path.write_text(json.dumps(document))
    capsys.readouterr()
    assert command(monkeypatch, "verify", out) == Exit.VERIFICATION_FAILED
    said = capsys.readouterr().out
    assert said == "manifest.json does not agree with the ledger\n"
