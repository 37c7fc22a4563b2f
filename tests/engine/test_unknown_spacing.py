"""What needs the size of a px is blank where that is unknown, and an impossible size is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.columns import COLUMNS
from mcdiff_batch.engine.image.gate import Gate, failed_checks
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import Entry
from mcdiff_batch.engine.page.parts import titled
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.review.session import Session
from tests.support.crafting import command, pictures, write_archive
from tests.support.meaning import archive, column, refusal
from tests.support.pages import output, read, stored

pytestmark = pytest.mark.slow
NAN = float("nan")
IN_MM = {key for x in COLUMNS if x.needs_mm for key in x.keys}
NEEDS = "needs the size of a pixel"
BLANK = dict.fromkeys(IN_MM) | {"label_agreement": 0.5}
Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Outputs of one archive of three phantoms: with a spacing; without one of case 1, and with one
    of case 2 that fits no spine."""
    root = tmp_path_factory.mktemp("unknown")
    with pytest.MonkeyPatch.context() as patch:
        words = ("--cases", 3, "--seed", 3, "--workers", 1)
        assert command(patch, "phantom", "--output", root / "known.zarr", *words) == 0
        shutil.copytree(root / "known.zarr", root / "mixed.zarr")
        own: Any = zarr.open_group(root / "mixed.zarr")["pixel_spacing_mm"]
        own[1], own[2] = NAN, 0.001
        for name in ("known", "mixed"):
            assert command(patch, "run", root / f"{name}.zarr", "--devices", "cpu:1") == 0
    return {name: root / f"{name}.enhanced" for name in ("known", "mixed")}


def entries(output: Path) -> tuple[Entry, ...]:
    return ledger.read(output, 0).cases


def test_without_a_spacing_images_are_the_same_and_what_needs_mm_is_blank(runs: Runs) -> None:
    known, blank = entries(runs["known"])[1], entries(runs["mixed"])[1]
    assert known.pixels == blank.pixels
    assert known.quality.keys() == blank.quality.keys()
    assert {k for k, v in blank.quality.items() if v is None} == IN_MM
    assert None not in (known.quality["levels_after"], known.quality["cnr_log10_after"])
    others = blank.quality.keys() - IN_MM
    assert {k: known.quality[k] for k in others} == {k: blank.quality[k] for k in others}
    group: Any = zarr.open_group(runs["mixed"] / "images.zarr", mode="r")
    for key in IN_MM:
        assert np.isnan(group[key][1]), key
    assert np.isfinite(group["levels_after"][0])
    assert np.isfinite(group["label_agreement"][:]).all()


def test_a_case_with_a_spacing_is_measured_as_ever_beside_one_without(runs: Runs) -> None:
    assert entries(runs["mixed"])[0] == entries(runs["known"])[0]


def test_a_spine_is_not_read_at_a_usual_size_where_the_stated_one_fits_none(runs: Runs) -> None:
    case = entries(runs["mixed"])[2]
    assert case.quality["levels_before"] is case.quality["levels_invented"] is None
    assert case.quality["uca_confidence"] is None
    assert "anatomy" in case.flags


def test_the_report_says_what_is_blank_and_why(runs: Runs) -> None:
    assert stored(runs["known"])["cases"]["without_spacing"] == 0
    assert NEEDS not in read(runs["known"] / "report/index.html").text
    data, text = stored(runs["mixed"]), read(runs["mixed"] / "report/index.html").text
    assert data["cases"]["without_spacing"] == 2
    assert data["quality"]["levels"]["after"]["cases"] == 1
    assert "or fits no spine, in 2 of 3 cases" in text
    assert f"levels{NEEDS}" in text
    assert "changes of levels and angles are not checked there" in text


def test_a_report_of_nothing_but_unknown_sizes_names_every_column(tmp_path: Path) -> None:
    done = Entry(case=0, status="done", extent=(40, 16), quality=BLANK)
    out = output(tmp_path / "out", [done], 1)
    write_report(out)
    text = read(out / "report/index.html").text
    for one in (x for x in COLUMNS if x.needs_mm):
        assert f"{titled(one)}{NEEDS}" in text
    assert "are not checked there" not in text  # it has no gate


def test_the_review_says_it_too(runs: Runs) -> None:
    about, _ = Session(out=runs["mixed"]).show(1, blind=False)
    assert {title for title, *_, last in about["numbers"] if last == NEEDS} == {
        *("CNR, 20 log10", "SNR, 20 log10", "thoracic angle", "lumbar angle", "levels"),
    }
    about, _ = Session(out=runs["mixed"]).show(0, blind=False)
    assert NEEDS not in json.dumps(about)


def test_a_blank_column_fails_no_check() -> None:
    assert failed_checks(Gate(levels=0, angle=0), BLANK) == ()
    assert failed_checks(Gate(agreement=0.9, levels=0), BLANK) == ("agreement",)


SPACINGS = {"zero": (0, 0.2), "below": (0.2, -0.5), "infinite": (float("inf"), float("inf"))}


@pytest.mark.parametrize("name", SPACINGS)
def test_an_impossible_spacing_fails_its_own_case_and_is_refused_for_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "pixel_spacing_mm", np.array([[5, 5], SPACINGS[name], [NAN, 4]]), {})
    assert command(monkeypatch, "check", path) == 3
    printed = capsys.readouterr().out
    assert "case 1: range: pixel_spacing_mm is [" in printed
    assert "2 usable, 1 not" in printed
    assert "pixel spacing is unknown in 1 of 3 cases" in printed
    opened = open_archive(path)
    assert opened.read(0).spacing_mm == (5, 5)
    assert np.isnan(opened.read(2).spacing_mm).all()
    stated = [x if np.isfinite(x) else "Infinity" for x in SPACINGS[name]]
    refusal(archive(tmp_path / "b.zarr", attributes={"pixel_spacing_mm": stated}))


def test_a_warning_names_what_is_blank_and_the_option(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())
    (warning,) = (x for x in open_archive(path).warnings if "unknown" in x)
    for said in ("levels, angles, CNR and SNR", "--pixel-spacing", "mcdiff.pixel_spacing_mm"):
        assert said in warning
