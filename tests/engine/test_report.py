"""The report: true to the output, whatever state that is in, and safe whatever its data say."""

import ast
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.columns import COLUMNS
from mcdiff_batch.engine.image.frame import grey
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.output.ledger import Entry, Incident, Record
from mcdiff_batch.engine.output.runs import Run, Settings
from mcdiff_batch.engine.page import page
from mcdiff_batch.engine.page.comparison import compare
from mcdiff_batch.engine.page.parts import POLICY, html
from mcdiff_batch.engine.page.svg import ticks
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.cases import count_bins, summarise
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.report.document import FailedCase, Figure, Summary, as_json
from mcdiff_batch.engine.report.gallery import (
    Pick,
    Pictures,
    PictureSource,
    choose_cases,
    colour_labels,
    encode_png,
    take_evenly,
)
from mcdiff_batch.engine.report.timings import split_sessions
from mcdiff_batch.engine.report.unit_lines import UnitLine
from tests.support.running import CONTRACT, archive, break_case, inline, job

CASES = 10
BIDI, ESCAPE = "\u202e", "\x1b[31m"
HOSTILE = f"""<script>alert(1)</script>" onload='x' {ESCAPE}{BIDI}=cmd()\n</style></title>"""
CANARY = "Jane-Doe-1970"
MEBIBYTE = 1 << 20


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.figures: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "data":
            self.figures += [value or "" for _, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(path: Path) -> Reader:
    return Reader(path.read_text())


def stored(output: Path) -> Any:
    return json.loads((output / "report/report.json").read_text())


def leaves(value: Any) -> Iterator[object]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def assert_safe(found: Reader) -> None:
    """Nothing runs, nothing is fetched, nothing changes how a terminal or a line reads."""
    assert not {"script", "iframe", "object", "link", "base", "form", "a"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    policy = next(value for name, value in found.attributes if name == "content")
    assert policy == POLICY
    assert all(v.startswith("data:image/png;") for k, v in found.attributes if k == "src")
    ids = [v for k, v in found.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    assert not [v for _, v in found.attributes if v.startswith(("http:", "https:", "//"))]
    assert not {ESCAPE[0], BIDI} & set(found.text)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 4 is damaged; ids are names."""
    path = archive(tmp_path_factory.mktemp("report") / "night.zarr", CASES)
    names = np.array([f"{CANARY}-{k}{HOSTILE}" for k in range(CASES)], object)
    group = zarr.open_group(path)
    group.create_array("case_id", shape=(CASES,), chunks=(CASES,), dtype="string")[...] = names
    break_case(path, 4)
    return path


@pytest.fixture(scope="module")
def night(source: Path) -> Path:
    """The output of a whole run, with its report."""
    output = source.parent / "night.enhanced"
    inline(job(source, output, unit_size=2))
    write_report(output)
    return output


SETTINGS = Settings(
    plan="onnxruntime",
    device_kind="cpu",
    batch_size=1,
    unit_size=500,
    solver="ddim",
    ladder=(900.0, 10.0),
    seed=0,
    temperature=1.0,
    bundle="b" * 64,
    archive="a" * 64,
    cases="0-9",
    grid="frame",
    software={"numpy": "2"},
)


def done(case: int, **more: float | None) -> Entry:
    measured = {"cnr_log10_before": 1.0, "cnr_log10_after": 2.0, "label_agreement": 0.9} | more
    return Entry(case=case, status="done", extent=(40, 16), optimal=0, quality=measured)


def failed(case: int, reason: str = "corrupt", detail: str = "") -> Entry:
    return Entry(case=case, status="failed", reason=reason, detail=detail)


def output(path: Path, entries: Sequence[Entry], cases: int, **contract: object) -> Path:
    """An output directory made by hand: a ledger, and no images."""
    path.mkdir()
    settings = replace(SETTINGS, cases=f"0-{cases - 1}" if cases > 1 else "0")
    runs.save(path, Run(settings=settings, contract=asdict(CONTRACT) | contract))
    size = settings.unit_size
    for unit in range(-(-len(entries) // size)):
        part = tuple(entries[unit * size : (unit + 1) * size])
        record = Record(unit=unit, first=unit * size, count=len(part), shards={}, cases=part)
        ledger.write(path, record)
    return path


def test_a_whole_run_is_told_in_one_sentence(night: Path) -> None:
    found = read(night / "report/index.html")
    assert "9 of 10 cases are enhanced, 1 failed." in found.text
    assert stored(night)["outcome"] == {"state": "failures", "exit_code": 3, "ended": "COMPLETED"}
    assert_safe(found)


def test_every_figure_of_the_page_is_in_report_json(night: Path) -> None:
    known = {str(x) for x in leaves(stored(night)) if isinstance(x, int | float)}
    found = read(night / "report/index.html")
    assert len(found.figures) > 40
    assert set(found.figures) <= known


def test_the_schema_has_a_version_and_its_parts(night: Path) -> None:
    data = stored(night)
    assert data["schema"] == 3
    assert sorted(data) == [
        "cases", "failures", "flagged", "gallery", "incidents", "latency", "machine", "outcome",
        "provenance", "quality", "schema", "stages", "throughput", "timeline", "version", "work",
        "written_at",
    ]  # fmt: skip
    (device,) = data["stages"]
    assert sorted(device) == [
        "accounted_percent", "cases", "device", "lanes", "ms_per_case", "waiting_percent",
        "wall_seconds",
    ]  # fmt: skip
    assert sorted(data["timeline"]) == ["devices", "longest_waits", "seconds"]
    assert sorted(data["latency"]["batch"]) == [
        "count", "histogram", "max", "p50", "p90", "p95", "p99",
    ]  # fmt: skip
    assert sorted(data["machine"]) == [
        "cpu_percent", "gpus", "notes", "resident_mib", "samples", "seconds", "xids",
    ]  # fmt: skip
    assert data["cases"]["done"] + data["cases"]["failed"] == CASES
    assert data["quality"]["cnr_log10"]["gain"]["cases"] == CASES - 1
    assert sum(data["quality"]["cnr_log10"]["histogram"]["after"]) == CASES - 1


def test_contrast_and_signal_to_noise_name_their_logarithm(night: Path) -> None:
    text = read(night / "report/index.html").text
    for said in ("Contrast to noise, 20 log10", "Signal to noise, 20 log10", "CNR, 20 log10"):
        assert said in text
    assert "median CNR gain, 20 log10" in text


def test_every_column_is_in_report_json_and_on_the_page_where_it_was_measured(night: Path) -> None:
    quality, text = stored(night)["quality"], read(night / "report/index.html").text
    assert set(quality) == {column.name for column in COLUMNS}
    for column in (x for x in COLUMNS if quality[x.name]["after"]["cases"]):
        assert column.title in text


def test_a_field_that_has_its_default_is_left_out_of_the_json() -> None:
    row = FailedCase(case=1, status="failed", reason="corrupt", detail="")
    assert as_json([row]) == [{"case": 1, "status": "failed", "reason": "corrupt", "detail": ""}]
    assert as_json({"row": replace(row, id="a")})["row"]["id"] == "a"


def test_names_appear_only_when_asked_for_and_paths_never(night: Path) -> None:
    for name in ("index.html", "report.json"):
        text = (night / "report" / name).read_text()
        assert CANARY not in text
        assert "night" not in text
    named = read(write_report(night, show_ids=True))
    assert_safe(named)
    assert f"{CANARY}-4<script>" in named.text
    write_report(night)


def test_before_is_what_the_model_was_given(source: Path, night: Path) -> None:
    case = frame_case(open_archive(source).read(0), CONTRACT)
    shown = draw_pictures(night, collect(night))[0]
    expected = grey(case.depths[case.optimal], case.strip)
    top, left = case.placement.top, case.placement.left
    inner = expected[top : top + case.placement.height, left : left + case.placement.width]
    assert shown.before is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.before))), inner)


def test_results_on_the_inputs_grid_are_shown_on_the_frame(source: Path) -> None:
    target = source.parent / "grid.enhanced"
    inline(job(source, target, grid="input"))
    shown = draw_pictures(target, collect(target, archive=source), source)[0]
    assert shown.before is not None
    assert shown.after is not None
    sizes = {Image.open(io.BytesIO(x)).size for x in (shown.before, shown.after)}
    assert sizes == {(13, 32)}


def test_without_the_archive_the_results_are_shown_and_the_rest_is_said(
    night: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(night, tmp_path / "moved.enhanced")
    text = read(write_report(alone)).text
    assert "archive is not where it was" in text
    shown = draw_pictures(alone, collect(alone))[0]
    assert shown.before is None
    assert shown.after is not None


def test_an_archive_that_changed_is_not_shown(night: Path, tmp_path: Path) -> None:
    other = archive(tmp_path / "other.zarr", 3)
    assert collect(night, archive=other).gallery.before == "changed"


def test_a_damaged_result_is_left_out(night: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(night, tmp_path / "broken.enhanced")
    for shard in (broken / "images.zarr/enhanced/c").rglob("0"):
        if shard.is_file():
            shard.write_bytes(b"no shard")
    assert all(x.after is None for x in draw_pictures(broken, collect(broken)).values())
    assert_safe(read(write_report(broken)))


def test_an_unfinished_output_says_what_is_left(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.enhanced"
    inline(job(source, half, unit_size=2, max_failures=0))
    shutil.rmtree(half / "ledger")
    (half / "ledger").mkdir()
    (half / "manifest.json").unlink(missing_ok=True)
    (half / "report/timings.jsonl").write_text('{"at": 1, "torn')
    (half / "report/run_stats.json").unlink()
    text = read(write_report(half)).text
    assert "0 of 10 cases are enhanced, 10 still open." in text
    assert "not finished" in text
    assert "Run the same command again" in text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    entries = [failed(0, HOSTILE, HOSTILE), failed(1, "corrupt", "<b>" * MEBIBYTE), done(2)]
    words = {"name": HOSTILE, "training": {HOSTILE: {"note": HOSTILE}}, "classes": [HOSTILE] * 4}
    made = output(tmp_path / "hostile", entries, 3, **words)
    ledger.append_incident(made, Incident(kind=HOSTILE, detail=HOSTILE * 9999, device=HOSTILE))
    line = {"began": 0, "device": HOSTILE, "at": 1, "counts": {"done": 1, "failed": 0}, "unit": 0}
    line |= {"lanes": {HOSTILE: {HOSTILE: 1}}, "from": 0, "to": 1, "tail": 0, "batches": [1]}
    line |= {"gaps": [[HOSTILE, 0, 1]], "cases": [1]}
    (made / "report").mkdir()
    (made / "report/timings.jsonl").write_text(json.dumps(line) + "\n")
    path = write_report(made)
    assert_safe(read(path))
    assert "<script>alert(1)</script>" in read(path).text
    assert path.stat().st_size < MEBIBYTE


def test_flagged_cases_come_first() -> None:
    gain = np.array([-1.0, -3, 1, np.nan, *[2.0] * 96])
    agreement = np.array([0.9, 0.98, 0.1, np.nan, *[0.97] * 5, *[0.99] * 91])
    flagged = np.zeros(100, int)
    flagged[[50, 4, 60]] = 1, 1, 2
    bad = [Pick(case=200, flag="failed")]
    worst = choose_cases(bad, list(range(100)), gain, agreement, flagged.tolist())
    assert [x.case for x in worst[:10]] == [60, 4, 50, 200, 2, 0, 5, 6, 7, 1]
    assert [x.flag for x in worst[:10]] == [*["gate"] * 3, "failed", *["agreement"] * 5, "cnr"]
    assert len(worst) == len({x.case for x in worst}) == 24
    flags = [bool(x.flag) for x in worst]
    assert flags == sorted(flags, reverse=True)


def test_two_runs_are_set_side_by_side(source: Path, night: Path) -> None:
    other = source.parent / "other.enhanced"
    inline(job(source, other, unit_size=5, seed=3, limit=5))
    found = read(write_report(night, other=other))
    write_report(night)
    assert_safe(found)
    comparison = compare(collect(night), collect(other))
    assert comparison.figures["cases done"] == Figure(this=9, other=4, ratio=2.25)
    assert comparison.figures["CNR after, median, 20 log10"].ratio is None
    assert comparison.settings["seed"] == ["0", "3"]
    assert {"seed", "cases", "unit_size"} == set(comparison.settings)
    assert "Settings that differ" in found.text


def test_the_figures_of_a_comparison_are_in_report_json(source: Path, night: Path) -> None:
    found = read(write_report(night, other=night))
    known = {str(x) for x in leaves(stored(night)) if isinstance(x, int | float)}
    write_report(night)
    assert set(found.figures) <= known
    assert "The same settings." in found.text


def test_failed_cases_are_the_first_cards(night: Path) -> None:
    shown = stored(night)["gallery"]["cases"]
    assert (shown[0]["case"], shown[0]["flag"]) == (4, "failed")
    assert len(shown) == CASES


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [failed(k, detail="x" * 200) if k % 10 == 3 else done(k) for k in range(10_000)]
    made = output(tmp_path_factory.mktemp("large") / "large", entries, 10_000)
    (made / "report").mkdir()
    with (made / "report/timings.jsonl").open("w") as file:
        for unit in range(312):
            file.write(json.dumps(timed(unit)) + "\n")
    return made


def timed(unit: int) -> dict[str, Any]:
    """A line of a unit of 32 cases in 64 s, of one of four devices."""
    begin, rng = unit // 4 * 64.0, np.random.default_rng(unit)
    gaps = [["wait", begin + 4 * k, 1 + k / 16] for k in range(16)]
    model = {"wait": 23.5, "step": 40.5}
    return {
        "began": 1.0,
        "device": f"cuda:{unit % 4}",
        "unit": unit,
        "at": begin + 64,
        "counts": {"done": 32, "failed": 0},
        "lanes": {"model": model, "reading": {"read": 9.0}, "finishing": {"encode": 2.0}},
        "from": begin,
        "to": begin + 64,
        "tail": 0.0,
        "gaps": gaps,
        "batches": rng.uniform(4, 8, 4).tolist(),
        "cases": rng.uniform(10, 90, 32).tolist(),
    }


def test_ten_thousand_cases_take_less_than_10_mb(large: Path) -> None:
    report = collect(large)
    noise = np.random.default_rng(0).integers(0, 256, (512, 128), np.uint8)
    grain = encode_png(noise), encode_png(colour_labels(noise, noise % 4))
    worst = Pictures(before=grain[0], after=grain[0], labels=grain[1])
    shown = page.render(report, {x.case: worst for x in report.gallery.cases})
    assert len(shown.encode()) < 10e6
    assert report.latency.case.count == 312 * 32
    assert report.timeline is not None
    assert len(report.timeline.devices) == 4
    assert report.stages[0].accounted_percent == 100
    assert report.failures.total == 1000
    assert len(report.failures.rows) == 200
    assert "not all are listed" in Reader(shown).text


def test_a_damaged_record_is_counted_and_its_cases_are_open(large: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(large, tmp_path / "copy")
    (copy / ledger.file_name(3)).write_text("{")
    report = collect(copy)
    assert report.cases.damaged_records == 1
    assert report.cases.open == 500
    assert report.outcome.state == "stopped"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run"):
        write_report(tmp_path)


def test_a_run_that_began_again_is_a_session_of_its_own() -> None:
    begun = ((7.0, 1.0), (7.0, 2.0), (90.0, 3.0))
    lines = [UnitLine(began=x, at=at, device="cpu:0", cases=1, lanes={}) for x, at in begun]
    assert [len(x) for x in split_sessions(lines)] == [2, 1]


def test_nothing_measured_is_no_distribution() -> None:
    nothing = np.array([np.nan, np.nan])
    assert summarise(nothing) == Summary(cases=0)
    assert count_bins(after=nothing) is None
    flat = count_bins(after=np.array([0.5, 0.5]))
    assert flat is not None
    assert flat.after is not None
    assert sum(flat.after) == 2


def test_markup_escapes_what_it_did_not_make() -> None:
    assert html("<p>{}{}</p>", "<b>", html("<i>{}</i>", "x")) == "<p>&lt;b&gt;<i>x</i></p>"
    assert html('<img alt="{}"/>', '"><script>') == '<img alt="&#34;&gt;&lt;script&gt;"/>'


@pytest.mark.parametrize("place", ["engine/page", "train/training/card_page.py"])
def test_p10_markup_is_made_of_literal_templates_only(place: str) -> None:
    """Data are never a template; besides templates, only the style sheet is markup as it is."""
    root = Path(__file__).parents[2] / place
    for file in sorted(root.glob("*.py")) if root.is_dir() else [root]:
        for call in (x for x in ast.walk(ast.parse(file.read_text())) if isinstance(x, ast.Call)):
            made = call.func.id if isinstance(call.func, ast.Name) else ""
            if made == "html" or (made == "Markup" and file.name != "parts.py"):
                assert isinstance(call.args[0], ast.Constant), f"{file}:{call.lineno}"


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-27.3, 6.1) == [-20, -10, 0]
    assert ticks(3, 3) == [3]


def test_an_even_choice_takes_both_ends() -> None:
    assert take_evenly(list(range(100)), 3) == [0, 50, 99]
    assert take_evenly([5], 3) == [5]


def test_a_missing_image_is_no_picture(tmp_path: Path) -> None:
    source = PictureSource(out=tmp_path, frame=CONTRACT.frame, archive=None)
    assert source.draw(0, (40, 16), 0) == Pictures()
