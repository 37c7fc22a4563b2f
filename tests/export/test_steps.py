"""Ladders of a bundle: which one a run takes, and how they are fitted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mcdiff_batch.bench.cli import fidelity
from mcdiff_batch.bench.common.mean_plan import contract
from mcdiff_batch.engine.errors import BundleError, FingerprintError, UsageError
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.model.contract import Sampler, load_bundle, write_contract
from mcdiff_batch.engine.model.ladder import choose, find_rungs, recommended_rungs
from mcdiff_batch.engine.model.plan import Conditioning
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.schedule import Schedule, half_log_snr, log_snr_ladder, time_of
from mcdiff_batch.engine.model.solver import FITTED, rungs
from mcdiff_batch.engine.run.job import resolve
from mcdiff_batch.export.cli import fit_steps
from mcdiff_batch.export.ladders import fitted_ladders as ladders
from mcdiff_batch.export.recommend import choose_sampler, quality
from mcdiff_batch.export.references import read_with_truth
from mcdiff_batch.export.steps import (
    FitProblem,
    FittedLadder,
    fair_weights,
    fit,
    follow,
    grow,
    margin,
    walk_fit_case,
)
from mcdiff_batch.train.phantom.archive import write_phantoms
from tests.support.running import CONTRACT, archive, inline, job

SCHEDULE = Schedule()


def fitted(evaluations: int, **more: object) -> Sampler:
    """Of no use, but whole."""
    known = {"psnr_median_db": 50.0, "psnr_min_db": 43.0, "cases": 4, "temperature": 0.0}
    return Sampler(
        solver=FITTED,
        ladder=log_snr_ladder(SCHEDULE, evaluations, first=-4.0, last=2.0),
        weights=((0.5, 0.5, 0.0),) * evaluations,
        nfe=evaluations,
        **(known | more),  # type: ignore[arg-type]
    )


MODEL = replace(CONTRACT, sampler=fitted(4), ladders=(fitted(6), CONTRACT.sampler))


def settings(source: Path, output: Path, **options: object):
    found = resolve(replace(job(source, output, **options), contract=MODEL)).settings
    return found.solver, len(found.ladder)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return archive(tmp_path / "a.zarr", 3)


def test_a_run_takes_the_recommendation_and_steps_are_exact(source: Path, tmp_path: Path) -> None:
    ways = {steps: settings(source, tmp_path / "out", steps=steps) for steps in (None, 6, 4, 7)}
    assert ways == {None: (FITTED, 4), 6: (FITTED, 6), 4: (FITTED, 4), 7: ("ddim", 7)}
    assert settings(source, tmp_path / "out", solver="ddim", steps=1000) == ("ddim", 1000)


def test_a_ladder_fitted_without_noise_is_not_used_with_it(source: Path, tmp_path: Path) -> None:
    assert settings(source, tmp_path / "out", draws=2) == ("dpmpp_2m", 10)
    assert settings(source, tmp_path / "out", temperature=0.5, steps=6) == ("dpmpp_2m", 6)
    assert settings(source, tmp_path / "out", temperature=0.0) == (FITTED, 4)


def test_an_absent_fitted_count_is_refused_and_the_others_are_named(source, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"of 5 steps .*only of: 4, 6"):
        settings(source, tmp_path / "out", solver=FITTED, steps=5)


def test_a_run_on_a_fitted_ladder_resumes_and_knows_another_one(source, tmp_path) -> None:
    ask = lambda **options: replace(job(source, tmp_path / "out", **options), contract=MODEL)
    inline(ask(limit=2, steps=6))
    assert resolve(ask(steps=6)).settings.solver == FITTED
    assert len(resolve(ask()).rungs) == 6
    for steps in (4, 7):
        with pytest.raises(FingerprintError, match=r"was .* when this output was begun"):
            resolve(ask(steps=steps))


def test_a_fitted_walk_has_the_weights_of_the_contract() -> None:
    rung = recommended_rungs(MODEL)[1]
    assert (rung.a, rung.b, rung.c) == (0.5, 0.5, 0.0)
    assert rung.signal**2 + rung.noise**2 == pytest.approx(1)
    broken = replace(MODEL, sampler=replace(fitted(4), weights=()))
    with pytest.raises(BundleError, match="4 times has 0 weights"):
        recommended_rungs(broken)


def test_without_noise_an_unfitted_count_is_walked_by_ddim_and_with_noise_by_the_second_order():
    assert choose(MODEL, 0.0, None, 9)[0] == "ddim"
    assert choose(MODEL, 1.0, None, 9)[0] == "dpmpp_2m"
    assert len(find_rungs(MODEL, *choose(MODEL, 1.0, None, 9))) == 9


def test_without_the_truth_the_fewest_evaluations_that_are_faithful_are_recommended() -> None:
    sound = [fitted(4, psnr_min_db=41.9), fitted(6), fitted(8)]
    assert choose_sampler(sound).nfe == 6
    assert choose_sampler(sound).figures == {"recommended_by": "likeness to 1000-step DDIM"}
    far = [fitted(2, psnr_median_db=30.0), fitted(4, psnr_median_db=40.0)]
    assert choose_sampler(far).nfe == 4


def test_with_the_truth_quality_decides_and_not_likeness_to_a_thousand_steps() -> None:
    figures = {"psnr_db": 25.0, "cnr_share": 0.6, "snr_share": 0.6, "levels": 0.05}
    of = lambda n, **more: fitted(n, psnr_median_db=20.0 + n, figures=figures | more)
    found = choose_sampler([of(1), of(4), of(10)])
    assert (found.nfe, found.figures["recommended_by"]) == (1, "quality to clean")
    assert choose_sampler([of(1), of(4, cnr_share=0.63), of(10)]).nfe == 1  # 1.5 points
    assert choose_sampler([of(1), of(4, cnr_share=0.67), of(10)]).nfe == 4  # 3.5 points
    assert choose_sampler([of(1, psnr_db=24.8), of(4), of(10)]).nfe == 4  # 4 points
    assert choose_sampler([of(1, levels=0.2), of(4), of(10)]).nfe == 4  # 3 points


def test_the_original_has_no_share_of_the_gain_and_the_clean_target_all(phantoms: Path) -> None:
    frame = Frame(height=256, width=64)
    truths = [x for _, x in read_with_truth(phantoms, contract(frame), 3) if x is not None]
    original = quality(truths, [x.depths[x.case.optimal] for x in truths])
    clean = quality(truths, [x.truth.clean for x in truths])
    shares = [(x["cnr_share"], x["snr_share"]) for x in (original, clean)]
    assert shares == [(0, 0), (1, 1)]
    assert original["psnr_db"] < clean["psnr_db"] == float("inf")


def test_time_is_the_inverse_of_half_log_snr() -> None:
    for t in (1.0, 12.96, 500.5, 996.077, 1000.0):
        assert time_of(SCHEDULE, float(half_log_snr(SCHEDULE.alpha_at(t)))) == pytest.approx(t)


def test_a_fitted_ladder_with_the_weights_of_ddim_is_ddim() -> None:
    lambdas = np.array([-3.0, -1.0, 0.5, 2.0])
    stay = np.exp(-np.append(np.diff(lambdas), np.inf))
    way = FittedLadder(np.column_stack([lambdas, stay, 1 - stay, np.zeros(4)]))
    mine = way.rungs(SCHEDULE)
    theirs = rungs("ddim", SCHEDULE, [x.t for x in mine])
    for a, b in zip(mine, theirs, strict=True):
        assert (a.a, a.b, a.c) == pytest.approx((b.a, b.b, b.c), abs=1e-9)


class Stiff:
    """x0-hat answers an error of u = x / signal by `gain` times its opposite, px by px."""

    batch = 1

    def step(self, x, previous, rung, conditioned):
        u, (wanted, gain) = x / np.float32(rung.signal), conditioned.conditions
        x0 = np.clip(wanted - gain * (u - wanted) + 0.1 * np.tanh(u), -1, 1).astype(np.float32)
        return np.float32(rung.a) * x + np.float32(rung.b) * x0 + np.float32(rung.c) * previous, x0


def lesson_of(seed: int):
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(-0.8, 0.8, (1, 1, 32, 16)).astype(np.float32)
    gain = rng.uniform(2, 4, wanted.shape).astype(np.float32)
    describe_errors = Conditioning(conditions=(wanted, gain), label=np.zeros((1, 32, 16), np.uint8))
    noise, strip = np.zeros_like(wanted), np.ones((32, 16), bool)
    return walk_fit_case(Stiff(), MODEL, describe_errors, noise, strip)


def test_on_a_stiff_walk_fitted_weights_are_nearer_to_the_reference_than_any_published_ones():
    problem = FitProblem(plan=Stiff(), schedule=SCHEDULE, cases=[lesson_of(i) for i in range(3)])
    way, unseen = fit(problem, 6, 48, print), [lesson_of(i) for i in range(10, 13)]
    far = lambda walked: np.mean(
        [x.error(sample(Stiff(), x.noise, x.conditioned, walked)[0, 0]) for x in unseen]
    )
    published = [rungs(s, SCHEDULE, log_snr_ladder(SCHEDULE, 6)) for s in ("ddim", "dpmpp_2m")]
    assert far(way.rungs(SCHEDULE)) < 0.1 * min(map(far, published))


def test_a_search_is_the_same_every_time_and_never_worse_than_where_it_began():
    problem = FitProblem(plan=Stiff(), schedule=SCHEDULE, cases=[lesson_of(0)])
    one, two, more = (fit(problem, 4, calls, print) for calls in (24, 24, 48))
    assert (one.table == two.table).all()
    margins = [margin(follow(problem, x.table[:, 0])[1]) for x in (one, more)]
    assert margins[1] >= margins[0]


def test_a_search_begun_from_a_ladder_is_never_worse_than_it() -> None:
    problem = FitProblem(plan=Stiff(), schedule=SCHEDULE, cases=[lesson_of(i) for i in range(3)])
    good = fit(problem, 4, 160, print).table[:, 0]
    reached = [margin(follow(problem, x)[1]) for x in (good, fit(problem, 4, 1, print).table[:, 0])]
    assert reached[1] < reached[0]
    again = fit(problem, 4, 1, print, [good]).table[:, 0]
    assert margin(follow(problem, again)[1]) >= reached[0]


def test_a_ladder_grows_by_one_evaluation_at_every_place() -> None:
    ladders = grow(np.array([-3.0, -1.0, 3.5]))
    assert [x.tolist() for x in ladders] == [
        [-3.4, -3.0, -1.0, 3.5],
        [-3.0, -2.0, -1.0, 3.5],
        [-3.0, -1.0, 1.25, 3.5],
        [-3.0, -1.0, 3.5, 4.0],
    ]


def test_the_hardest_case_counts_more_than_its_px() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.standard_normal((500, 3)) for _ in range(9)]
    wanted = [np.array([0.5, 0.4, 0.1])] * 8 + [np.array([0.2, 0.7, 0.1])]
    targets = [x @ w for x, w in zip(columns, wanted, strict=True)]
    worst = lambda weights: max(
        np.mean(np.square(x @ weights - y)) for x, y in zip(columns, targets, strict=True)
    )
    equal = np.linalg.lstsq(np.concatenate(columns), np.concatenate(targets))[0]
    assert worst(fair_weights(columns, targets)) < 0.5 * worst(equal)
    assert fair_weights(columns[:8], targets[:8]) == pytest.approx(wanted[0], abs=1e-4)


@pytest.fixture(scope="module")
def short(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle on a schedule of 30 steps, so that references are cheap."""
    folder = tmp_path_factory.mktemp("short") / "bundle"
    shutil.copytree(toy_bundle, folder)
    contract = load_bundle(folder).contract
    schedule = replace(contract.schedule, steps=30)
    ladder = (30.0, 22.0, 13.0, 3.0)
    sampler = replace(contract.sampler, solver="ddim", ladder=ladder, nfe=4, weights=())
    write_contract(replace(contract, schedule=schedule, sampler=sampler, ladders=()), folder)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "phantoms.zarr"
    write_phantoms(path, cases=2, seed=6, workers=1)
    return path


@pytest.fixture(scope="module")
def stepped(short: Path, few: Path) -> Path:
    """With ladders, through the command."""
    output = short.parent / "stepped"
    words = ["--data", str(few), "--held-out", str(few), "--output", str(output)]
    words += ["--cases", "2", "--scored", "2", "--calls", "1"]
    words += ["--evaluations", "3", "--evaluations", "2"]
    CliRunner().invoke(fit_steps, [str(short), *words], catch_exceptions=False)
    return output


def test_fit_steps_changes_nothing_but_the_contract(stepped: Path, short: Path) -> None:
    for file in short.glob("*.onnx"):
        assert (stepped / file.name).read_bytes() == file.read_bytes()
    before, after = (load_bundle(x).contract for x in (short, stepped))
    there = ladders(after)
    assert sorted(there) == [2, 3]
    assert all(x.cases == 2 and len(x.weights) == x.nfe for x in there.values())
    assert {"psnr_db", "levels"} <= set(there[2].figures)
    counts = [x["evaluations"] for x in after.scores]
    assert sorted(counts) == [1, 2, 2, 2, 3, 3, 3, 4, 4, 6, 6, 10, 10, 30]
    same = {"sampler": before.sampler, "ladders": (), "scores": before.scores}
    assert replace(after, **same) == before


def test_ladders_that_are_not_fitted_again_are_scored_on_the_same_cases(
    stepped: Path, few: Path, tmp_path: Path
) -> None:
    output = tmp_path / "again"
    words = ["--data", str(few), "--held-out", str(few), "--output", str(output)]
    words += ["--cases", "1", "--scored", "1", "--calls", "1", "--evaluations", "3"]
    CliRunner().invoke(fit_steps, [str(stepped), *words], catch_exceptions=False)
    before, after = (ladders(load_bundle(x).contract) for x in (stepped, output))
    assert {n: x.cases for n, x in after.items()} == {2: 1, 3: 1}
    assert after[2].weights == before[2].weights
    assert after[2].psnr_median_db != before[2].psnr_median_db


def test_an_older_contract_has_no_ladders(stepped: Path, tmp_path: Path) -> None:
    contract = load_bundle(stepped).contract
    for file in stepped.glob("*.onnx"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = write_contract(contract, tmp_path)
    assert load_bundle(tmp_path).contract == contract
    raw = json.loads(path.read_text())
    del raw["ladders"], raw["scores"], raw["sampler"]["weights"], raw["sampler"]["figures"]
    path.write_text(json.dumps(raw))
    assert load_bundle(tmp_path).contract.ladders == ()


def test_the_fidelity_table_has_every_arm_and_continues_where_it_stopped(
    stepped: Path, few: Path, tmp_path: Path
) -> None:
    words = ["--data", str(few), "--bundle", str(stepped), "--cases", "2"]
    words += ["--evaluations", "3", "--work", str(stepped.with_suffix(".work"))]
    words += ["--output", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.png"), "--no-times"]
    runs = []
    for _ in range(2):
        CliRunner().invoke(fidelity, words, catch_exceptions=False)
        runs.append(json.loads((tmp_path / "x.json").read_text()))
    assert runs[0] == runs[1]
    arms = {(x["evaluations"], x["solver"], x["ladder"]) for x in runs[0]["runs"]}
    assert {(3, FITTED, FITTED), (3, "ddim", "log-SNR"), (3, "dpmpp_2m", "uniform in t")} <= arms
    assert not any(name.endswith("_s") for row in runs[0]["runs"] for name in row)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
