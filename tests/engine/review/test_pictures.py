"""What a review shows: the images of the output, its flags, and what is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.frame import Frame, grey, place, to_frame
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.engine.output import ledger
from tests.support.review import FAINT, Page, reviewable
from tests.support.running import image


@pytest.mark.parametrize("grid", [None, "input"])
def test_images_are_those_of_the_output_and_the_scan_placed_on_its_grid(
    tmp_path: Path, grid: str | None
) -> None:
    output = reviewable(tmp_path, grid=grid)
    case = open_archive(tmp_path / "night.zarr").read(1)
    with Page(output) as page:
        about, planes = page.show(1)
    assert about["planes"] == ["depth 0", "depth 1", "enhanced", "label", "spread"]
    shape = (64, 32) if grid else (32, 16)
    assert (about["height"], about["width"]) == shape
    for name in ("enhanced", "label", "spread"):
        stored = np.frombuffer(image(output, 1, name), np.uint8).reshape(shape)
        np.testing.assert_array_equal(planes[name], stored)
    depths = standardise(case)
    if grid is None:
        depths = to_frame(depths, Frame(height=32, width=16), black=-1)
    np.testing.assert_array_equal(planes["depth 0"], grey(depths[0], np.ones(shape, bool)))
    scale = 1 if grid else place((64, 32), Frame(height=32, width=16)).scale
    assert about["mm"] == [10 / scale, 10 / scale]
    assert about["pixels"] == ledger.read(output, 0).cases[1].pixels


def test_flagged_cases_come_first_with_the_reason_in_words(page: Page) -> None:
    found = page.ask("cases").json
    assert found["cases"] == [FAINT, 0, 1, 3, 4, 5]
    assert found["flagged"] == "100000"
    flag, no_bone = page.show(FAINT)[0]["flags"]
    assert flag["why"].startswith("uses a small part of the intensity range")
    assert "intensity_range" in flag["todo"]
    assert no_bone["why"] == "no bone was found in the scan"
    assert page.ask(f"cases?known={found['version']}").json == {"version": None}


def test_p10_ids_are_shown_on_request_only_and_escaped(output: Path) -> None:
    with Page(output) as page:
        assert page.ask("cases").json["ids"] is None
        everything = page.ask("cases").body + page.ask("case/4").body + page.ask("session").body
        assert b"plain-4" not in everything
    with Page(output, show_ids=True) as page:
        shown = page.ask("cases").json["ids"]
        assert "plain-4" in shown
        assert all(x.isprintable() for x in shown)
        assert page.show(4)[0]["id"] == "plain-4"


def test_without_the_archive_the_results_are_shown_and_the_page_says_so(output: Path) -> None:
    shutil.rmtree(output.parent / "night.zarr")
    with Page(output) as page:
        assert "not where it was" in page.ask("session").json["missing"]
        assert "--input" in page.ask("session").json["missing"]
        about, planes = page.show(0)
        assert (set(planes), about["mm"]) == ({"enhanced", "label", "spread"}, None)
        assert page.ask("marks/0").json == {"angles": []}
        assert page.ask("case/0?blind=1").status == 404
        assert page.vote(0, verdict="accept").status == 200


def test_damaged_pixels_are_not_shown(page: Page, output: Path) -> None:
    shard = next(x for x in (output / "images.zarr/enhanced/c/0").rglob("*") if x.is_file())
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    found = page.ask("case/0")
    assert found.status == 410
    assert "verify" in found.json["error"]


def test_a_run_may_go_on_meanwhile(page: Page, output: Path) -> None:
    later = output / "ledger/000001.json"
    data = later.read_bytes()
    later.unlink()
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3]
    assert page.ask("case/5").status == 404
    later.write_bytes(data)
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3, 4, 5]
    later.write_bytes(data[: len(data) // 2])  # a damaged record
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3]
