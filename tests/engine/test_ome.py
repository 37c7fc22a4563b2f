"""images.zarr is an OME-Zarr 0.5 image; outputs of versions before that stay sound."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.page.write import write_report
from tests.support.running import archive, bundle, committed, inline, job

GROUP = "images.zarr/zarr.json"


def scales(output: Path) -> dict[str, tuple[list[float], set[str | None]]]:
    """Scale and units of each array, as ome-zarr-models reads them; it checks the whole group."""
    image = Image.from_zarr(zarr.open_group(output / "images.zarr", mode="r"))
    assert image.ome_attributes.version == "0.5"
    found = {}
    for one in image.ome_attributes.multiscales:
        (dataset,) = one.datasets
        assert [x.name for x in one.axes] == ["case", "y", "x"]
        assert one.name == dataset.path
        (transformation,) = dataset.coordinateTransformations
        units = {x.unit for x in one.axes if x.type == "space"}
        found[dataset.path] = list(transformation.scale), units
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 x 16 px of 10 mm, on a frame of 32 x 16 px."""
    return archive(tmp_path_factory.mktemp("ome") / "night.zarr", 5)


def test_every_image_array_is_described_in_place(source: Path, tmp_path: Path) -> None:
    inline(job(source, tmp_path / "one"))
    mm = ([1.0, 12.5, 12.5], {"millimeter"})
    assert scales(tmp_path / "one") == {"enhanced": mm, "label": mm}
    inline(job(source, tmp_path / "two", draws=2, grid="input"))
    mm = ([1.0, 10.0, 10.0], {"millimeter"})
    assert scales(tmp_path / "two") == {"enhanced": mm, "label": mm, "spread": mm}


def with_columns(path: Path, cases: int, **columns: list[Any]) -> Path:
    group = zarr.open_group(archive(path, cases), mode="r+")
    for name, values in columns.items():
        group.create_array(name, data=np.array(values))
    return path


UNITLESS = ([1.0, 1.0, 1.0], {None})
SIZES = {  # columns of two cases, grid, and what the scale is
    "one spacing": (
        {"pixel_spacing_mm": [[2.0, 3.0]] * 2},
        "frame",
        ([1, 2.5, 3.75], {"millimeter"}),
    ),
    "two spacings": ({"pixel_spacing_mm": [[2.0, 3.0], [2.0, 4.0]]}, "frame", UNITLESS),
    "one unknown": ({"pixel_spacing_mm": [[2.0, 3.0], [np.nan, np.nan]]}, "input", UNITLESS),
    "two extents": ({"extent": [[40, 16], [32, 16]]}, "frame", UNITLESS),
    "two extents, kept": ({"extent": [[40, 16], [32, 16]]}, "input", ([1, 10, 10], {"millimeter"})),
    "extents of one scale": (
        {"extent": [[40, 16], [40, 12]]},
        "frame",
        ([1, 12.5, 12.5], {"millimeter"}),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_in_mm_is_given_only_where_it_is_that_of_all_cases(
    tmp_path: Path, name: str
) -> None:
    columns, grid, expected = SIZES[name]
    path = with_columns(tmp_path / "a.zarr", 2, **columns)
    inline(job(path, tmp_path / "out", grid=grid))
    assert scales(tmp_path / "out")["enhanced"] == expected


def test_without_any_spacing_the_scale_has_no_unit(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", 2)
    zarr.open_group(path, mode="r+").attrs["mcdiff"] = {"schema": 1}
    inline(job(path, tmp_path / "out"))
    assert scales(tmp_path / "out")["label"] == UNITLESS


def make_older(output: Path) -> None:
    """What the version before the attribute would have written: the same without it."""
    document = json.loads((output / GROUP).read_bytes())
    assert json.dumps(document, indent=2) == (output / GROUP).read_text()
    del document["attributes"]["ome"]
    data = json.dumps(document, indent=2).encode()
    (output / GROUP).write_bytes(data)
    manifest = output / "manifest.json"
    if manifest.exists():
        listed = json.loads(manifest.read_bytes())
        listed["files"][GROUP] = hashlib.sha256(data).hexdigest()
        manifest.write_text(json.dumps(listed, indent=0, sort_keys=True) + "\n")


def test_a_complete_output_of_an_older_version_is_left_as_it_is(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    inline(job(source, output))
    make_older(output)
    before = committed(output)
    assert list(find_damage(output)) == []
    summary = inline(job(source, output))
    assert (summary.exit_code, summary.units) == (Exit.DONE, 0)
    assert write_report(output).is_file()
    assert committed(output) == before


def test_an_older_output_that_was_begun_becomes_one_of_today(source: Path, tmp_path: Path) -> None:
    inline(job(source, tmp_path / "whole"))
    output = tmp_path / "out"
    inline(job(source, output))
    (output / "ledger/000001.json").unlink()
    (output / "manifest.json").unlink()
    make_older(output)
    assert list(find_damage(output)) == []
    assert inline(job(source, output)).exit_code == Exit.DONE
    assert list(find_damage(output)) == []
    assert committed(output) == committed(tmp_path / "whole")
    assert "millimeter" in scales(output)["enhanced"][1]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["mcdiff-batch", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code

    return run


def test_the_commands_work_on_an_older_output(
    source: Path, tmp_path: Path, call: Callable[..., int]
) -> None:
    bundle(tmp_path / "model")
    words = ("run", source, "--bundle", tmp_path / "model", "--devices", "cpu")
    output = tmp_path / "out"
    assert call(*words, "--output", output) == 0
    make_older(output)
    before = committed(output)
    for again in ((*words, "--output", output), ("verify", output), ("report", output)):
        assert call(*again) == 0
    assert call(*words, "--output", output, "--repair") == 0
    assert committed(output) == before
