"""Several draws of a case, their spread, and the flags of the gate."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.errors import Exit, UsageError
from mcdiff_batch.engine.image.frame import grey
from mcdiff_batch.engine.image.gate import Gate, explain, failed_checks
from mcdiff_batch.engine.model.contract import Contract, load_bundle, write_contract
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.engine.model.ladder import choose
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.solver import FITTED, rungs
from mcdiff_batch.engine.output import verify
from mcdiff_batch.engine.output.manifest import read_entries
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from tests.support.fake import FakeMaker
from tests.support.running import (
    CONTRACT,
    PowerCut,
    archive,
    bundle,
    committed,
    cut_at,
    fault,
    image,
    inline,
    job,
)

CASES, DRAWS = 5, 3
STEPS = 1  # more, and the fake plan's draws come to one image
COLD = replace(CONTRACT, sampler=replace(CONTRACT.sampler, temperature=0.0))
STRICT = replace(CONTRACT, gate=Gate(agreement=0.99))
Floats = npt.NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """No wait for the disk: nothing here pulls a plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("draws") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    """An undisturbed run of three draws, units of two."""
    return run(source, source.parent / "whole.enhanced")


def run(source: Path, output: Path, contract: Contract = CONTRACT, **options: object) -> Path:
    inline(replace(asked(source, output, **options), contract=contract))
    return output


def asked(source: Path, output: Path, **options: object) -> Job:
    return job(source, output, **({"unit_size": 2, "draws": DRAWS, "steps": STEPS} | options))


def drawn(framed: FramedCase, draw: int, temperature: float = 1.0) -> Floats:
    """One sample [H, W] of the fake plan, clipped, from the noise of its name."""
    strip = framed.strip[None, None].astype(np.float32)
    plan = FakeMaker()(Device(kind="cpu", index=0), 1)
    conditioned = plan.condition(framed.depths[None], framed.weights[None], strip, strip)
    walk = rungs("ddim", CONTRACT.schedule, choose(CONTRACT, 1.0, "ddim", STEPS)[1])
    noise = np.float32(temperature) * gaussian(0, framed.key, (1, *framed.strip.shape), draw)
    return np.clip(sample(plan, noise[None], conditioned, walk)[0, 0], -1, 1).astype(np.float64)


def stored(output: Path, case: int, name: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(image(output, case, name), np.uint8).reshape(32, 16)


def column(output: Path, name: str) -> Floats:
    array = zarr.open_group(output / "images.zarr", mode="r")[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:], np.float64)


def cli(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mcdiff-batch", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


# --- the image and its spread


def test_the_image_is_the_mean_of_the_draws_and_the_spread_their_deviation(
    source: Path, whole: Path
) -> None:
    for case in range(CASES):
        framed = frame_case(open_archive(source).read(case), CONTRACT)
        samples = np.stack([drawn(framed, draw) for draw in range(DRAWS)])
        mean, sd = samples.mean(axis=0).astype(np.float32), samples.std(axis=0, ddof=1)
        np.testing.assert_array_equal(stored(whole, case, "enhanced"), grey(mean, framed.strip))
        levels = np.where(framed.strip, np.rint(127.5 * sd), 0)
        assert levels.any()
        assert np.abs(stored(whole, case, "spread") - levels).max() <= 1  # where rint is on edge
        assert np.mean(stored(whole, case, "spread") == levels) > 0.99
        inside = float(sd[framed.strip].mean()) / 2
        assert column(whole, "mean_spread")[case] == pytest.approx(inside, abs=1e-4)


def test_the_first_draw_is_the_only_one_of_a_single_draw(source: Path, tmp_path: Path) -> None:
    one = run(source, tmp_path / "one", draws=1)
    framed = frame_case(open_archive(source).read(2), CONTRACT)
    first = drawn(framed, 0).astype(np.float32)
    np.testing.assert_array_equal(stored(one, 2, "enhanced"), grey(first, framed.strip))
    assert not (one / "images.zarr/spread").exists()
    assert not (one / "images.zarr/mean_spread").exists()
    assert committed(run(source, tmp_path / "none", draws=None)) == committed(one)


def test_several_draws_are_warm_where_the_bundle_is_cold(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    assert committed(run(source, tmp_path / "cold", COLD)) == committed(whole)
    framed = frame_case(open_archive(source).read(0), COLD)
    still = drawn(framed, 0, temperature=0.0).astype(np.float32)
    one = run(source, tmp_path / "one", COLD, draws=1)
    np.testing.assert_array_equal(stored(one, 0, "enhanced"), grey(still, framed.strip))


def test_several_draws_take_ten_evaluations_where_the_bundles_way_is_shorter(
    source: Path, tmp_path: Path
) -> None:
    first = replace(COLD.sampler, ladder=COLD.sampler.ladder[:1], nfe=1)
    short = replace(COLD, sampler=first)
    path = run(source, tmp_path / "many", short, steps=None, limit=1)
    assert way(path) == ("ddim", 10, 1.0)
    assert "with fewer they are nearly one image" in write_report(path).read_text()
    assert way(run(source, path, short, steps=None, draws=None)) == way(path)  # goes on
    assert way(run(source, path, short, steps=None, draws=None, solver="ddim")) == way(path)
    one = run(source, tmp_path / "one", short, steps=None, draws=1, limit=1)
    assert way(one) == ("ddim", 1, 0.0)
    asked_for = run(source, tmp_path / "asked", short, steps=2, limit=1)
    assert way(asked_for) == ("ddim", 2, 1.0)
    other = run(source, tmp_path / "other", short, steps=None, solver="dpmpp_2m", limit=1)
    assert way(other) == ("dpmpp_2m", 10, 1.0)


@pytest.mark.parametrize(("heat", "expected"), [(1.0, FITTED), (0.0, "dpmpp_2m")])
def test_draws_take_the_bundles_ladder_of_ten_evaluations_where_it_holds_at_temperature_1(
    source: Path, tmp_path: Path, heat: float, expected: str
) -> None:
    times = tuple(1000.0 - 90 * k for k in range(10))
    weights = ((0.0, 1.0, 0.0),) * 10
    ten = replace(
        COLD.sampler, solver=FITTED, ladder=times, nfe=10, weights=weights, temperature=heat
    )
    one = replace(COLD.sampler, solver="dpmpp_2m", ladder=(1000.0,), nfe=1)
    out = run(
        source, tmp_path / "out", replace(COLD, sampler=one, ladders=(ten,)), steps=None, limit=1
    )
    assert way(out) == (expected, 10, 1.0)
    assert (settings(out)["ladder"] == list(times)) == (expected == FITTED)


def settings(output: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((output / "run.json").read_text())["settings"]
    return stored


def way(output: Path) -> tuple[str, int, float]:
    """Solver, evaluations a draw, temperature."""
    found = settings(output)
    return found["solver"], len(found["ladder"]), found["temperature"]


def test_several_draws_at_temperature_0_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all draws are the same; leave out --temperature"):
        run(source, tmp_path / "out", temperature=0.0)
    assert not (tmp_path / "out").exists()


def test_the_spread_follows_the_inputs_grid(source: Path, tmp_path: Path) -> None:
    out = run(source, tmp_path / "out", grid="input", limit=2)
    spread = np.frombuffer(image(out, 1, "spread"), np.uint8).reshape(40, 16)
    assert spread.any()
    assert collect(out).gallery.draws == DRAWS


# --- promises


def test_p4_draws_depend_on_nothing_but_seed_case_and_draw(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    some = run(source, tmp_path / "some", batch_size=3, unit_size=3, cases="4,1")
    for name in ("enhanced", "spread"):
        assert all(image(some, case, name) == image(whole, case, name) for case in (1, 4))
    other = run(source, tmp_path / "other", seed=1, limit=1)
    assert image(other, 0, "spread") != image(whole, 0, "spread")


def test_p1_a_worker_killed_at_its_draws_changes_nothing(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    kill = fault("kill", source, 3, times=1, counter=tmp_path / "count")
    assert enhance(asked(source, out), FakeMaker(faults=(kill,))).exit_code == Exit.DONE
    assert committed(out) == committed(whole)


@pytest.mark.parametrize("step", [38, 42, 47, 52, 90])
def test_p1_cut_among_the_shards_of_a_unit_and_begun_again_without_a_word(
    source: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(PowerCut), cut_at(step):
        inline(asked(source, out))
    assert list(verify.find_damage(out)) == []
    inline(job(source, out, unit_size=None, batch_size=None))
    assert committed(out) == committed(whole)


def test_p1_draws_that_are_no_numbers_leave_their_case_open(
    source: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bad = fault("nan", source, 2)
    assert inline(asked(source, out), faults=(bad,)).counts["open"] == 1
    assert not any(image(out, 2, "spread"))  # absent, and its neighbour is there
    assert image(out, 3, "spread") == image(whole, 3, "spread")
    inline(job(source, out, unit_size=2))
    assert committed(out) == committed(whole)


def test_p3_a_lost_or_changed_shard_of_the_spread_is_noticed(source: Path, tmp_path: Path) -> None:
    out = run(source, tmp_path / "out")
    clean = committed(out)
    shard = out / "images.zarr/spread/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    found = list(verify.find_damage(out))
    assert [str(x) for x in found] == ["images.zarr/spread/c/1/0/0 was changed: case 2"]
    shard.unlink()
    assert [x.what for x in verify.find_damage(out)] == ["is missing"]
    run(source, out)
    assert committed(out) == clean


# --- quality columns and the gate


def test_every_done_case_has_its_spine_in_the_columns(source: Path, whole: Path) -> None:
    for name in ("levels", "uca_thoracic", "uca_lumbar"):
        assert len(column(whole, f"{name}_before")) == len(column(whole, f"{name}_after")) == CASES
    for name in ("levels_lost", "levels_invented", "uca_confidence", "depth_coverage"):
        assert np.isfinite(column(whole, name)).all()
    gained = column(whole, "levels_after") - column(whole, "levels_before")
    changed = column(whole, "levels_invented") - column(whole, "levels_lost")
    assert gained.tolist() == changed.tolist()


@pytest.fixture(scope="module")
def gated(source: Path) -> Path:
    return run(source, source.parent / "gated.enhanced", STRICT)


def flagged(output: Path) -> dict[int, tuple[str, ...]]:
    return {x.case: x.flags for x in read_entries(output) if x.flags}


def test_what_the_gate_flags_is_in_the_ledger_and_in_a_column(gated: Path, whole: Path) -> None:
    found = list(read_entries(gated))
    assert STRICT.gate is not None
    assert [x.flags for x in found] == [failed_checks(STRICT.gate, x.quality) for x in found]
    assert 0 < len(flagged(gated)) <= CASES
    assert column(gated, "flagged").tolist() == [bool(x.flags) for x in found]
    assert not flagged(whole)  # a bundle without a gate
    assert not column(whole, "flagged").any()
    assert all(image(gated, x) == image(whole, x) for x in range(CASES))


def test_flagged_cases_are_the_first_cards_with_the_reason_in_words(gated: Path) -> None:
    page = write_report(gated).read_text()
    data = json.loads((gated / "report/report.json").read_text())
    first = data["gallery"]["cases"][0]
    assert first["flag"] == "gate"
    assert first["why"] == [f"label map changed: Dice {first['quality']['label_agreement']:.2f}"]
    assert first["why"][0] in page
    count = len(flagged(gated))
    assert data["flagged"]["total"] == data["flagged"]["kinds"]["agreement"] == count
    assert "cases are flagged: look at them first" in page
    assert all(x.spread for x in draw_pictures(gated, collect(gated)).values())


def test_a_report_without_a_gate_says_so(whole: Path) -> None:
    assert "The model has no gate" in write_report(whole).read_text()


def test_flags_that_nobody_knows_are_shown_as_they_are() -> None:
    measured: dict[str, float | None] = {
        "levels_lost": 2, "levels_invented": 0, "uca_lumbar_before": 20, "uca_lumbar_after": 31,
        "uca_thoracic_after": None, "mean_spread": 0.061, "depth_coverage": 0.5,
    }  # fmt: skip
    known = ("coverage", "levels", "angle", "spread", "{made} up")
    assert explain(known, measured) == [
        "a depth shows only 50% of the scan",
        "levels: 2 lost, 0 invented",
        "curve angle changed by 11.0°",
        "draws differ: 0.061 on average",
        "{made} up",
    ]


# --- the command line


def test_the_command_line_says_what_was_flagged_and_refuses_cold_draws(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, out = bundle(tmp_path / "tiny"), tmp_path / "out"
    write_contract(replace(load_bundle(model).contract, gate=Gate(agreement=2.0)), model)
    words: list[Any] = ["run", "--input", source, "--bundle", model, "--output", out]
    assert cli(monkeypatch, *words, "--draws", 2, "--temperature", 0) == Exit.USAGE
    assert "there is no noise" in capsys.readouterr().err
    assert cli(monkeypatch, *words, "--draws", 2) == Exit.DONE
    assert f"{CASES} flagged: look at them first, see report" in capsys.readouterr().out
    assert cli(monkeypatch, "status", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["flagged"] == CASES
    assert cli(monkeypatch, *words, "--draws", 3) == Exit.FINGERPRINT_DIFFERS
    assert "draws was 2" in capsys.readouterr().err
    assert cli(monkeypatch, "verify", out) == 0
