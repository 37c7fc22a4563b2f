"""The page of the report: what it says, in which order, and that it is safe and readable."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from mcdiff_batch.engine.cli import group
from mcdiff_batch.engine.cli.output import report as report_command
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.page import page
from mcdiff_batch.engine.page.overlay import draw_marks, scale_bar
from mcdiff_batch.engine.page.parts import SCRIPT, STYLE, document, html, policy
from mcdiff_batch.engine.page.svg import Row, histograms, ticks
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report import advice
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.document import Report
from mcdiff_batch.engine.report.gallery import Angle, Line, Marks
from tests.support.pages import HOSTILE, Reader, assert_safe, done, failed, leaves, output, read
from tests.support.running import archive, break_case, inline, job

MEBIBYTE = 1 << 20
TITLES = ["Attention", "Quality", "Cases", "Time", "Machine", "Provenance"]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of 6 cases; case 2 is damaged, the spacing of case 5 is unknown."""
    folder = tmp_path_factory.mktemp("page")
    path = archive(folder / "night.zarr", 6)
    spacing = np.full((6, 2), 4.0)
    spacing[5] = np.nan
    zarr.open_group(path).create_array("pixel_spacing_mm", data=spacing)
    break_case(path, 2)
    inline(job(path, folder / "night.enhanced"))
    write_report(folder / "night.enhanced")
    return folder / "night.enhanced"


def show(report: Report) -> Reader:
    return Reader(page.render(report, {}))


def headings(found: str) -> list[tuple[str, str]]:
    """Level and words of each heading."""
    return re.findall(r"<h([1-6])[^>]*>(.*?)</h", found)


def test_cases_come_before_time_and_machine(night: Path) -> None:
    text = (night / "report/index.html").read_text()
    assert [words for level, words in headings(text) if level == "2"] == TITLES


def test_headings_are_in_order(night: Path) -> None:
    levels = [int(level) for level, _ in headings((night / "report/index.html").read_text())]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_every_table_has_headers_and_every_picture_says_what_it_is(night: Path) -> None:
    text = (night / "report/index.html").read_text()
    for table in re.findall(r"<table.*?</table>", text, re.S):
        assert "<th scope=" in table
    assert 'alt="case 0: Before"' in text
    assert 'alt="case 0: Enhanced"' in text
    for svg in re.findall("<svg[^>]*>", text):
        assert 'aria-hidden="true"' in svg or re.search('role="img" aria-label="[^"]', svg)


def test_links_lead_to_places_of_the_page(night: Path) -> None:
    found = read(night / "report/index.html")
    ids = {v for k, v in found.attributes if k == "id"}
    links = [v for k, v in found.attributes if k == "href"]
    assert len(links) >= len(TITLES)
    assert {x.removeprefix("#") for x in links} <= ids


@pytest.mark.parametrize(
    ("entries", "selected", "title"),
    [
        ([done(0), done(1)], 2, "2 enhanced"),
        ([failed(0), done(1), failed(2)], 3, "2 failed · 1 enhanced"),
        ([failed(0), done(1)], 5, "3 open · 1 failed · 1 enhanced"),
        ([replace(done(0), flags=("angle",)), done(1)], 2, "2 enhanced · 1 flagged"),
    ],
)
def test_the_title_of_the_tab_counts_failures(
    tmp_path: Path, entries: list[ledger.Entry], selected: int, title: str
) -> None:
    made = output(tmp_path / "out", entries, selected)
    assert f"<title>{title}</title>" in page.render(collect(made), {})


@pytest.mark.parametrize("reason", [*advice.FAILURES, "new-reason"])
def test_attention_says_what_to_do_about_each_failure(tmp_path: Path, reason: str) -> None:
    entry = failed(1, "" if reason == "open" else reason, "this was found")
    status = "open" if reason == "open" else "failed"
    found = show(collect(output(tmp_path / "out", [done(0), replace(entry, status=status)], 2)))
    said = advice.advise_failure(reason)
    attention = found.text[found.text.index("what to do") : found.text.index("Quality", 900)]
    for words in (f"{reason}: 1", "1 this was found", said.means, said.todo, said.command):
        assert words in attention
    assert re.search("mcdiff-batch (run|check)", attention)


@pytest.mark.parametrize("check", [*advice.FLAGS, "new-check"])
def test_attention_says_what_to_do_about_each_flag(tmp_path: Path, check: str) -> None:
    made = output(tmp_path / "out", [replace(done(0), flags=(check,)), done(1)], 2)
    found, said = show(collect(made)), advice.advise_flag(check)
    for words in ("1 case is flagged", f"{check}: 1", said.means, said.todo, said.command):
        assert words in found.text
    assert ("href", "#case-0") in found.attributes


def test_attention_says_what_to_do_about_each_incident(tmp_path: Path) -> None:
    made = output(tmp_path / "out", [done(0)], 1)
    kinds = [*advice.INCIDENTS, "new-kind"]
    for kind in kinds:
        ledger.append_incident(made, Incident(kind=kind, detail=f"of {kind}", device="cuda:1"))
    text = show(collect(made)).text
    assert "none is open" in text
    for kind in kinds:
        said = advice.advise_incident(kind)
        assert f"GPU 1: of {kind}" in text
        assert said.todo in text
        assert said.command in text


def commands() -> Iterator[str]:
    for table in (advice.FAILURES, advice.FLAGS, advice.INCIDENTS):
        yield from (x.command for x in table.values() if x.command)


def test_every_command_of_the_advice_is_one() -> None:
    for command in sorted({*commands(), advice.REPAIR}):
        program, name, *words = command.split()
        assert program == "mcdiff-batch"
        helped = CliRunner().invoke(group, [name, "--help"])
        assert helped.exit_code == 0
        for option in (x for x in words if x.startswith("--")):
            assert option in helped.output, command


def test_warnings_about_the_archive_are_the_first_of_attention(night: Path) -> None:
    found = read(night / "report/index.html")
    attention = found.text[found.text.index("Warning:") :]
    assert attention.index("pixel spacing is unknown") < attention.index("1 case failed")
    report = replace(collect(night), warnings=[HOSTILE])
    assert "<script>alert(1)" in show(report).text
    assert_safe(show(replace(report, warnings=["<b>"])))


def test_an_archive_that_changed_is_a_warning(night: Path, tmp_path: Path) -> None:
    report = collect(night, archive=archive(tmp_path / "other.zarr", 3))
    text = show(report).text
    assert "Warning: The archive has changed since the run" in text


def test_nothing_is_said_only_where_there_is_nothing(tmp_path: Path) -> None:
    report = collect(output(tmp_path / "out", [done(0), done(1)], 2))
    sound = replace(report, gallery=replace(report.gallery, before="read"))
    assert "Nothing. No case failed" in show(sound).text
    changed = replace(report, gallery=replace(report.gallery, before="changed"))
    ill = replace(report, machine=replace(report.machine, xids=[79]))
    for other in (replace(sound, warnings=["dim"]), changed, ill):
        assert "Nothing. No case failed" not in show(other).text
    assert "(XID): 79" in show(ill).text


def test_the_page_says_when_the_run_began_and_ended(night: Path) -> None:
    work = collect(night).work
    times = [str(x)[:16].replace("T", " ") for x in (work.started_at, work.finished_at)]
    assert f"Started {times[0]}, ended {times[1]}" in read(night / "report/index.html").text


def test_pictures_have_captions_sides_and_a_scale(night: Path) -> None:
    text = read(night / "report/index.html").text
    for words in ("Before", "Enhanced", "Labels", "image left", "image right"):
        assert words in text
    assert re.search(r"\d px", text)


def test_an_angle_is_shown_with_its_confidence(tmp_path: Path) -> None:
    for name, entry, count in (
        ("known", done(0, uca_thoracic_after=21.3, uca_confidence=0.75), 1),
        ("unknown", done(0, uca_thoracic_after=None, uca_confidence=0.75), 0),
    ):
        shown = page.render(collect(output(tmp_path / name, [entry], 1)), {})
        cards = Reader(shown[shown.index('id="cases"') : shown.index('id="time"')]).text
        assert cards.count("confidence in the angles0.75 of 1") == count


def test_a_scale_bar_is_a_round_length() -> None:
    size = Marks(height=512, width=128, px=2.03, mm=0.9)
    assert scale_bar(size) == (pytest.approx(50 / 0.9), "50 mm")
    assert scale_bar(replace(size, mm=float("nan"))) == (pytest.approx(100 / 2.03), "100 px")
    assert scale_bar(replace(size, mm=0.001))[1] == "0.05 mm"
    for mm in (0.0, -1.0, 3.7, 1e6):
        length, _ = scale_bar(replace(size, mm=mm))
        assert 0.2 * size.width < length <= 0.5 * size.width * 1.01


def test_lines_of_angles_are_drawn_where_asked_for() -> None:
    rays = Line(x1=1, y1=10, x2=9, y2=12), Line(x1=1, y1=30, x2=9, y2=20)
    marks = Marks(height=64, width=16, px=1, mm=2.0, angles=(Angle(degrees=37.25, lines=rays),))
    assert "37.2°" in draw_marks(marks, angles=True)
    assert draw_marks(marks, angles=True).count('class="ray"') == 2
    assert "ray" not in draw_marks(marks)


def test_few_cases_are_dots_and_many_are_bars(tmp_path: Path) -> None:
    for count, circles in ((19, 19), (20, 0)):
        entries = [done(k, label_agreement=0.8 + k / 100) for k in range(count)]
        shown = page.render(collect(output(tmp_path / f"{count}", entries, count)), {})
        quality = shown[shown.index("label agreement") : shown.index('id="cases"')]
        assert quality.count("<circle") == circles


def test_dots_of_equal_values_stand_above_one_another() -> None:
    row = Row(name="after", counts=[3], median=1.0, points=[1.0, 1.0, 1.0])
    heights = re.findall('<circle[^>]* cy="([^"]+)"', histograms([0, 2], [row], "", "label"))
    assert len(set(heights)) == 3


def test_no_gpu_is_said_and_is_no_fault(night: Path) -> None:
    text = read(night / "report/index.html").text
    assert "No GPU was used." in text
    assert "NVML" not in text


def test_two_runs_are_set_side_by_side_in_a_page_of_their_own(tmp_path: Path, night: Path) -> None:
    before = (night / "report/index.html").read_bytes()
    other = tmp_path / "<b>other.enhanced"
    path = archive(tmp_path / "o.zarr", 6, seed=1)
    inline(job(path, other, unit_size=5, seed=3, limit=4))
    result = CliRunner().invoke(report_command, [str(night), "--compare", str(other)])
    shown = Path(result.output.strip())
    assert shown == night / "report/comparison.html"
    found, plain = read(shown), read(night / "report/index.html")
    assert_safe(found)
    assert "Side by side" not in plain.text
    assert len((night / "report/index.html").read_bytes()) == len(before)
    for words in ("Side by side", "this: night.enhanced", "other: <b>other.enhanced", *TITLES):
        assert words in found.text
    data = json.loads((night / "report/comparison.json").read_text())
    assert set(found.figures) <= {str(x) for x in leaves(data) if isinstance(x, int | float)}
    compared = data["compared"]
    assert compared["figures"]["cases done"] == {
        "this": 5, "other": 4, "ratio": 1.25, "difference": 1,
    }  # fmt: skip
    assert compared["figures"]["CNR after, median, 20 log10"]["ratio"] is None
    assert set(compared["settings"]) == {"archive", "cases", "seed", "unit_size"}
    start = found.text.index("Settings that differ")
    side = found.text[start : found.text.index("Contrast to noise", start)]
    assert "another one, see Provenance" in side
    assert not re.search("[0-9a-f]{64}", side)


def test_a_run_compared_with_itself_has_no_difference(night: Path) -> None:
    text = read(write_report(night, other=night)).text
    assert "Both runs have the same settings" in text
    assert "none" in text


def test_contrast_and_signal_to_noise_name_their_logarithm(night: Path) -> None:
    text = read(night / "report/index.html").text
    for said in ("Contrast to noise, 20 log10", "Signal to noise, 20 log10", "CNR, 20 log10"):
        assert said in text
    assert "median CNR gain, 20 log10" in text


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


def test_the_policy_allows_our_style_and_our_script_by_their_hashes_and_no_other() -> None:
    shown = document("x", STYLE, html("<p></p>"), script=SCRIPT)
    allowed = policy(STYLE, SCRIPT)
    assert html('content="{}"', allowed) in shown
    assert "unsafe" not in allowed
    assert allowed.startswith("default-src 'none'")
    assert policy(STYLE, None).count("sha256-") == 1
    assert policy(STYLE, html("{}", "alert(1)")) != allowed
    assert "</script" not in SCRIPT


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    short = colour[1:] if len(colour) == 7 else "".join(2 * x for x in colour[1:])
    values = [int(x, 16) / 255 for x in re.findall("..", short)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in values]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_stands_out_in_light_in_dark_and_on_paper() -> None:
    schemes = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for name in ("ink", "muted", "good", "warn", "bad", "after"):
            for ground in ("ground", "pale") if name in ("ink", "muted") else ("ground",):
                light, dark = sorted((luminance(colours[x]) for x in (name, ground)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name} on {ground}"


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
