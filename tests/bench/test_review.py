"""What `bench review` measures on: a small run, repeated by links, is a run like any other."""

from pathlib import Path

import numpy as np

from mcdiff_batch.bench.review.waiting import repeat_archive, repeat_run
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.review.session import Session
from tests.support.running import archive, inline, job


def test_a_repeated_run_shows_every_case_with_the_images_of_its_original(tmp_path: Path) -> None:
    archive(tmp_path / "a.zarr", 4)
    inline(job(tmp_path / "a.zarr", tmp_path / "a.enhanced", unit_size=2))
    repeat_archive(tmp_path / "a.zarr", tmp_path / "b.zarr", 10)
    repeat_run(tmp_path / "a.enhanced", tmp_path / "b.enhanced", tmp_path / "b.zarr", 10)
    assert list(find_damage(tmp_path / "b.enhanced")) == []
    assert open_archive(tmp_path / "b.zarr").cases == 10
    one, many = (Session(out=tmp_path / f"{x}.enhanced") for x in "ab")
    listed = many.list_cases(blind=False, known="")
    assert listed is not None
    assert sorted(listed["cases"]) == list(range(10))
    for case in range(10):
        told, planes = many.show(case, blind=False)
        first, originals = one.show(case % 4, blind=False)
        assert told["planes"] == first["planes"]
        for plane, original in zip(planes, originals, strict=True):
            np.testing.assert_array_equal(plane, original)
