"""Cases on the model's frame, and reading ahead."""

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import Case, open_archive
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from mcdiff_batch.engine.model.framing import (
    Failure,
    FramedCase,
    LoadError,
    check_depths,
    frame_case,
    prefetch,
)
from tests.support.crafting import WEIGHTS, chunk, contract, pictures, write_archive


def case(
    depths: int = 5, size: tuple[int, int] = (64, 32), dtype: str = "u1", **changes: object
) -> Case:
    images = pictures(cases=1, depths=depths, size=size, dtype=dtype)[0]
    images[:, :, :4] = 0  # black margin, outside the strip
    limits = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0)}.get(dtype, (0.0, 1.0))
    made = Case(
        index=7,
        key="seven",
        depths=images,
        present=np.ones(depths, bool),
        optimal=None,
        spacing_mm=(0.5, 0.25),
        intensity_range=limits,
        used=limits,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_case_is_averaged_onto_the_frame_between_minus_one_and_one() -> None:
    framed = frame_case(case(), contract())
    assert (framed.index, framed.key, framed.extent) == (7, "seven", (64, 32))
    assert (framed.depths.shape, framed.depths.dtype) == ((5, 32, 16), np.float32)
    means = case().depths.reshape(5, 32, 2, 16, 2).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(framed.depths, means, atol=1e-5)
    assert framed.spacing_mm == (1.0, 0.5)
    assert not framed.strip[:, :2].any()
    assert framed.strip[:, 2:].all()


def test_all_dtypes_give_the_same_framed_case() -> None:
    expected = frame_case(case(), contract()).depths
    for dtype in ("u2", "f2", "f4"):
        framed = frame_case(case(dtype=dtype), contract()).depths
        np.testing.assert_allclose(framed, expected, atol=1e-3)


def test_values_beyond_the_intensity_range_are_clipped() -> None:
    framed = frame_case(case(intensity_range=(100.0, 101.0)), contract())
    assert framed.depths.min() == -1
    assert framed.depths.max() == 1


def test_absent_depths_are_black_and_weigh_nothing() -> None:
    present = np.array([True, False, True, False, True])
    framed = frame_case(case(present=present), contract())
    assert (framed.depths[~present] == -1).all()
    np.testing.assert_allclose(framed.weights, np.array([0.1, 0, 0.3, 0, 0.1]) / 0.5, rtol=1e-6)
    assert framed.weights.dtype == np.float32
    assert framed.optimal == 2


def test_the_strip_is_that_of_the_depths_present() -> None:
    bright = case()
    bright.depths[0] = 255
    present = np.array([False, True, True, True, True])
    assert frame_case(bright, contract()).strip.all()
    assert not frame_case(replace(bright, present=present), contract()).strip.all()


def test_depths_without_weight_get_equal_shares() -> None:
    weights = (0.0, 0.0, 0.0, 0.5, 0.5)
    present = np.array([True, True, False, False, False])
    framed = frame_case(case(present=present), contract(depth_weights=weights))
    assert framed.weights.tolist() == [0.5, 0.5, 0, 0, 0]


def test_the_optimal_depth_takes_its_share_of_the_weights_first() -> None:
    present = np.array([True, True, False, True, True])
    for share, optimal in ((0.0, 4), (0.5, 4), (1.0, 0)):
        model = replace(contract(), optimal_share=share)
        weights = frame_case(case(present=present, optimal=optimal), model).weights
        others = np.where(present, WEIGHTS, 0) / sum(np.where(present, WEIGHTS, 0))
        expected = (1 - share) * others + share * np.eye(5)[optimal]
        np.testing.assert_allclose(weights, expected, atol=1e-7)
    unmarked = frame_case(case(), replace(contract(), optimal_share=1.0))
    assert unmarked.weights.tolist() == np.eye(5)[unmarked.optimal].tolist()


def test_the_archives_optimal_depth_wins_over_the_weights() -> None:
    assert frame_case(case(), contract()).optimal == int(np.argmax(WEIGHTS))
    assert frame_case(case(optimal=4), contract()).optimal == 4


def test_unknown_spacing_stays_unknown() -> None:
    framed = frame_case(case(spacing_mm=(np.nan, np.nan)), contract())
    assert np.isnan(framed.spacing_mm).all()


def test_one_depth_works_with_any_model() -> None:
    framed = frame_case(case(depths=1), contract())
    assert framed.depths.shape == (1, 32, 16)
    assert (framed.weights.tolist(), framed.optimal) == ([1.0], 0)


def test_another_number_of_depths_is_refused_at_the_start(tmp_path: Path) -> None:
    for depths, fine in ((1, True), (5, True), (3, False), (6, False)):
        archive = open_archive(write_archive(tmp_path / f"{depths}", pictures(depths=depths)))
        if fine:
            check_depths(archive, contract())
        else:
            with pytest.raises(ArchiveError, match=f"has {depths} depths.*expects 5"):
                check_depths(archive, contract())


def test_a_case_that_is_black_on_the_frame_fails() -> None:
    black = case()
    black.depths[...] = 0
    with pytest.raises(CaseError) as caught:
        frame_case(black, contract())
    assert caught.value.reason == "constant"


def test_small_and_odd_extents_fit_the_frame() -> None:
    for size in ((8, 8), (33, 9), (9, 200), (500, 11)):
        made = case(size=size)
        made.depths[:, 0] = 200
        framed = frame_case(made, contract())
        assert np.isfinite(framed.depths).all()
        assert -1 <= framed.depths.min() <= framed.depths.max() <= 1


def loader(path: Path) -> Callable[[int], FramedCase]:
    archive, model = open_archive(path), contract()
    return lambda index: frame_case(archive.read(index), model)


def test_cases_come_in_order_with_failures_in_their_place(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a", pictures(cases=6))
    chunk(path, 3).unlink()
    for threads in (1, 3):
        out = list(prefetch([5, 3, 0, 1], loader(path), lookahead=2, threads=threads))
        assert [x.index for x in out] == [5, 3, 0, 1]
        assert isinstance(out[1], Failure)
        assert out[1].reason == "missing"
        assert "3.0.0.0" in out[1].detail
        assert all(isinstance(x, FramedCase) for x in (out[0], *out[2:]))


def test_a_framed_case_does_not_depend_on_what_is_read_beside_it(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a", pictures(cases=4), chunks=(2, 5, 40, 16))
    load = loader(path)
    alone = [load(k).depths.tobytes() for k in range(4)]
    beside = prefetch([2, 0, 3, 1], load, lookahead=4, threads=3)
    assert {x.index: x.depths.tobytes() for x in beside if isinstance(x, FramedCase)} == dict(
        enumerate(alone)
    )


def readers() -> list[str]:
    return [x.name for x in threading.enumerate() if x.name.startswith("reader")]


def test_nothing_is_read_further_ahead_than_asked() -> None:
    started: list[int] = []
    made = frame_case(case(), contract())

    def load(index: int) -> FramedCase:
        started.append(index)
        return replace(made, index=index)

    source = prefetch(iter(range(1000)), load, lookahead=3)
    next(source)
    time.sleep(0.05)
    assert len(started) <= 4
    source.close()  # type: ignore[attr-defined]
    assert readers() == []


def test_framed_cases_are_freed() -> None:
    most, alive = 0, []
    made = frame_case(case(), contract())

    def load(index: int) -> FramedCase:
        depths = np.copy(made.depths)
        alive.append(weakref.ref(depths))
        return replace(made, index=index, depths=depths)

    for _ in prefetch(range(200), load, lookahead=3):
        most = max(most, sum(x() is not None for x in alive))
    assert most <= 7  # ahead, under way and in hand: P8


def test_stopping_early_leaves_no_thread(tmp_path: Path) -> None:
    load = loader(write_archive(tmp_path / "a", pictures(cases=6)))
    for item in prefetch(range(6), load):
        assert item.index == 0
        break
    del item
    assert readers() == []


def test_other_errors_name_their_case_and_end_the_reading() -> None:
    made = frame_case(case(), contract())

    def load(index: int) -> FramedCase:
        if index == 1:
            raise OSError(5, "Input/output error")
        return replace(made, index=index)

    source = prefetch(range(4), load)
    assert next(source).index == 0
    with pytest.raises(LoadError) as caught:
        next(source)
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, OSError)
    assert readers() == []


def test_nothing_to_read_is_nothing_read() -> None:
    assert list(prefetch([], lambda index: pytest.fail("read"))) == []
