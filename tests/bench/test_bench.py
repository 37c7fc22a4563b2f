"""The command `bench` on a small bundle: tables, documents, criteria; and its arithmetic."""

import json
import os
import pty
import re
import subprocess
import sys

import onnx.parser
import pytest

from mcdiff_batch.bench.acceptance.deployment import MEASURES_OF, read_criteria
from mcdiff_batch.bench.acceptance.requirements import MEASURES
from mcdiff_batch.bench.common.ceilings import Ceilings, ceilings
from mcdiff_batch.bench.common.graph_cost import graph_cost
from mcdiff_batch.bench.common.physics import is_quiet, steadiness
from mcdiff_batch.bench.measures.host import processes_needed
from mcdiff_batch.bench.measures.soak import Window, slope, summarise
from mcdiff_batch.bench.measures.step import Block, quiet_blocks
from mcdiff_batch.bench.measures.throughput import steady, unit_size
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.plan import Device
from tests.support.crafting import CLI, command
from tests.support.running import DENOISER, archive, bundle

ONE_PRODUCT = (  # a convolution that changes nothing
    ("float little", "float[1, 1, 1, 1] kernel = {1.0}, float little"),
    ("noise = Mul(x, little)", "seen = Conv(x, kernel)\n    noise = Mul(seen, little)"),
)


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """A function that runs `bench`: exit code, lines for a person, document, stderr."""
    denoiser = DENOISER
    for old, new in ONE_PRODUCT:
        assert old in denoiser
        denoiser = denoiser.replace(old, new)
    data = ("--bundle", bundle(tmp_path / "bundle", denoiser), "--quick")
    data += ("--input", archive(tmp_path / "a.zarr", cases=24))

    def call(*words):
        code = command(monkeypatch, "bench", *words, *data)
        said = capsys.readouterr()
        lines = said.out.splitlines()
        measured = bool(lines) and lines[-1].startswith("{")
        document = json.loads(lines.pop()) if measured else None
        return code, lines, document, said.err

    return call


def test_the_quick_bench_prints_cost_then_a_table_then_one_json_document(bench, tmp_path):
    code, lines, document, _ = bench("--output", tmp_path / "new" / "b.json")
    assert code == 0
    assert lines[0].startswith("fake, 32 x 16 px, 2 depths")
    assert lines[2].startswith("ceiling here: ")
    text = "\n".join(lines)
    for head in ("latency, ms", "throughput, cases/h", "host, ms a case", "step  "):
        assert text.index("a case: ") < text.index(head)
    assert [x for x in lines if len(x) > 80] == []
    assert not [x for x in lines if re.search(r"  -(?: |$)", x)]  # a column without figures
    assert json.loads((tmp_path / "new" / "b.json").read_text()) == document
    assert document["machine"]["versions"]["onnxruntime"]
    assert {"load", "clock_mhz", "gpus"} <= document["surroundings"]["after"].keys()
    given = {x for part in document["parts"] for x in MEASURES_OF[part]}
    assert document["measures"].keys() | document["unknown"].keys() == given
    assert "130 are needed" in document["unknown"]["p95_latency_ms"]


def test_a_terminal_gets_a_hint_and_no_json():
    ours, theirs = pty.openpty()
    words = [*CLI, "bench", "startup", "--repeats", "1"]
    done = subprocess.run(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "as JSON: the same command with --output FILE" in said
    assert "{" not in said


def test_a_machine_whose_ceilings_change_is_not_quiet(bench):
    _, lines, document, _ = bench("step")
    measured = document["surroundings"]["ceilings"]
    assert [x["after"] for x in measured] == ["start", "step"]
    assert steadiness(measured)[-1] in lines
    moved = [{"gemm_gflops": 200.0}, {"gemm_gflops": 181.0}]
    assert steadiness(moved)[-1] == "matrix product meanwhile: 181 to 200 GFLOP/s: steady"
    assert steadiness([*moved, {"gemm_gflops": 170.0}])[-1].startswith("NOT QUIET: ")
    assert is_quiet(moved[:1]) is None


def test_steps_beside_a_lower_ceiling_are_left_out():
    block = lambda gflops: Block(
        seconds=[1.0], top=Ceilings(flops_per_s=1e9 * gflops, bytes_per_s=1.0, where="here")
    )
    blocks = [block(200), block(181), block(179), block(100)]
    assert quiet_blocks(blocks) == blocks[:2]
    unknown = [Block(seconds=[1.0], top=None)] * 2
    assert quiet_blocks(unknown) == unknown


def test_a_note_says_that_the_baseline_was_measured_under_other_load(bench, tmp_path):
    bench("step", "--output", tmp_path / "before.json")
    before = json.loads((tmp_path / "before.json").read_text())
    del before["surroundings"]["ceilings"]
    (tmp_path / "before.json").write_text(json.dumps(before))
    _, lines, _, _ = bench("step", "--against", tmp_path / "before.json", "--tolerance", "99%")
    assert any(x.startswith("note: surroundings of the baseline is not known, now ") for x in lines)


def test_every_measure_that_can_be_required_is_measured_by_a_part():
    assert {x for names in MEASURES_OF.values() for x in names} == set(MEASURES)


def test_a_failed_requirement_exits_with_8_and_names_its_line(bench):
    code, lines, _, _ = bench("step", "--require", "step_ms<=1000000")
    assert code == 0
    assert any(line.startswith("met    step_ms<=1e+06") for line in lines)
    code, lines, document, err = bench("step", "--require", "step_ms<=1000000, gemm_share>=9")
    assert code == 8
    assert any(line.startswith("FAILS  gemm_share>=9") for line in lines)
    assert [x["met"] for x in document["gate"]] == [True, False]
    assert "gemm_share>=9" in err
    assert "step_ms" not in err


def test_without_onnx_a_step_has_a_time_and_no_share(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, lines, document, _ = bench("step", "--require", "gemm_share>=0")
    assert code == 8
    assert document["measures"]["step_ms"] > 0
    assert "package onnx" in document["unknown"]["gemm_share"]
    assert any("not counted" in line for line in lines)


@pytest.mark.gpu
def test_the_ceilings_of_a_gpu_are_higher_than_those_of_its_host():
    host, gpu = (ceilings(Device(kind=kind, index=0)) for kind in ("cpu", "cuda"))
    assert gpu.flops_per_s > host.flops_per_s
    assert gpu.bytes_per_s > host.bytes_per_s


def test_a_refused_percentile_fails_its_requirement(bench):
    words = ("latency", "--samples", "12", "--require", "p50_latency_ms<=1000000")
    assert bench(*words)[0] == 0
    code, _, _, err = bench(*words[:3], "--require", "p90_latency_ms<=1000000")
    assert code == 8
    assert "12 samples, 64 are needed" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--require", "speed>=1"),
        ("step", "--require", "p95_latency_ms<=1"),
        ("step", "--cases", "5", "--hours", "1"),
        ("throughput", "--cases", "5"),
        ("step", "--tolerance", "5"),
        ("step", "--batches", "1,two"),
        ("step", "--against", "absent.json"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(bench, words):
    code, lines, _, err = bench(*words)
    assert code == 2
    assert not lines
    assert "  ..." not in err  # no part has begun


def test_options_before_the_command_are_refused(monkeypatch, capsys):
    assert command(monkeypatch, "bench", "--quick", "step") == 2
    assert "after the command" in capsys.readouterr().err


def test_a_measure_may_be_worse_than_the_baseline_by_the_tolerance(bench, tmp_path):
    path = tmp_path / "b.json"
    code, _, document, _ = bench("step", "--output", path)
    assert code == 0
    document["measures"] = {"step_ms": 1e6, "cases_per_hour": 1.0}
    path.write_text(json.dumps(document | {"where": "2 x GPU"}))
    code, lines, _, _ = bench("step", "--against", path)
    assert code == 0
    assert any("(was 1e+06)" in line for line in lines)
    assert any(line.startswith("note: where of the baseline is 2 x GPU") for line in lines)
    path.write_text(json.dumps(document | {"measures": {"step_ms": 1e-6}}))
    assert bench("step", "--against", path, "--tolerance", "50%")[0] == 8


def test_whether_the_cases_fit_is_said_in_words_and_by_the_exit_code(bench):
    code, lines, document, _ = bench("throughput", "--cases", "10", "--hours", "100")
    assert code == 0
    (said,) = (line for line in lines if "fit in" in line)
    assert said.startswith("met    10 cases fit in 100 h on 1 device on")
    assert document["parts"]["throughput"]["official"] is False
    code, _, _, err = bench("throughput", "--cases", "1000000000", "--hours", "0.1")
    assert code == 8
    assert "1,000,000,000 cases do not fit in 0.1 h" in err


def test_latency_has_a_row_for_every_batch_size(bench):
    _, lines, document, _ = bench("latency", "--batches", "2,1", "--samples", "4")
    assert [x["batch"] for x in document["parts"]["latency"]["rows"]] == [2, 1]
    assert sum(line.startswith("batch ") for line in lines) == 2
    row = document["parts"]["latency"]["rows"][0]
    assert sum(row["stages_ms"].values()) <= 1.2 * row["slowest_ms"]


@pytest.mark.slow
def test_throughput_is_measured_by_run_for_each_batch_size_in_turn(bench):
    _, lines, document, _ = bench(
        *("throughput", "--devices", "cpu:1", "--batches", "1,2", "--samples", "8"),
        *("--repeats", "2", "--pairs", "1"),
    )
    found = document["parts"]["throughput"]
    assert [(x["devices"], x["batch"]) for x in found["sweep"]] == [("cpu:1", 1), ("cpu:1", 2)]
    assert {x["cases"] for x in (*found["sweep"], *found["rows"])} == {8}
    assert found["rows"][0]["cases_per_hour"]["repeats"] == 2
    assert found["pairs"][0]["run"] > 0
    assert found["calls_per_hour"]["low"] > 0
    assert any("the plan's calls alone" in line for line in lines)
    assert any("`run` over bench, 1 in turn" in line for line in lines)


def test_the_host_is_timed_without_the_model(bench):
    _, _, document, _ = bench("io", "--samples", "5", "--rate", "100")
    found = document["parts"]["io"]
    assert found["cases"] == 5
    assert all(ms > 0 for ms in found["ms_per_case"].values())
    (row,) = found["needed"]
    assert row["cases_per_s"] == 100


def test_a_soak_reports_rate_and_memory(bench):
    code, lines, document, _ = bench("soak", "--minutes", "0.05")
    found = document["parts"]["soak"]
    assert code == 0
    assert any(x.startswith("resident MiB") for x in lines)
    assert found["windows"] == len(found["series"]) > 4
    assert 0 < found["cases_per_hour"]["low"] <= found["cases_per_hour"]["high"]
    assert bench("soak", "--minutes", "0.00001")[0] == 2


def window(k, rate, memory, **gpu):
    gpus = [gpu] if gpu else []
    around = {"gpus": gpus, "load": 0.1, "clock_mhz": 2000 - k}
    return Window(at_s=1800.0 * k, cases_per_hour=rate, memory_mib=memory, around=around)


def test_drift_is_over_the_whole_soak_and_throttling_is_counted_if_known():
    hot = summarise([window(k, 100 - 5 * k, 500 + 2 * k, throttled=k > 2) for k in range(5)])
    assert (hot["hours"], hot["throttled_windows"]) == (2, 2)
    assert hot["rate_drift_percent"] == pytest.approx(-20 / 90 * 100, abs=0.01)
    assert hot["memory_drift_mib"] == 8
    assert hot["clock_mhz"] == {"low": 1996, "high": 2000}
    assert summarise([window(k, 100, 500) for k in range(5)])["throttled_windows"] is None
    assert (
        summarise([window(k, 100, 500, throttled=None) for k in range(5)])["throttled_windows"]
        is None
    )


def test_one_odd_window_does_not_change_the_drift():
    assert slope([0, 1, 2, 3, 4], [10, 12, 99, 16, 18]) == pytest.approx(2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
def test_peers_are_measured_in_turn_and_compared_with_ours(
    toy_bundle, phantoms, monkeypatch, capsys
):
    words = ("peers", "--quick", "--bundle", toy_bundle, "--input", phantoms)
    assert command(monkeypatch, "bench", *words) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])["parts"]["peers"]
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["mcdiff-batch"]["over_ours"]["median"] == 1
    assert {"torch eager float32", "torch eager bfloat16"} <= rows.keys()
    assert all(row["step_ms"]["repeats"] == 2 for row in found["rows"])
    assert found["case"]["paper_steps"] == 1000
    assert any("1000 steps, extrapolated from 8" in line for line in lines)
    assert "torch.compile" in found["absent"]


def test_the_number_of_processes_follows_the_rate():
    ms = {"decode": 20, "frame": 5, "quality": 40, "encode": 1, "write": 4, "fsync": 4, "commit": 1}
    assert processes_needed(100, ms) == {"cases_per_s": 100, "readers": 3, "finishers": 5}
    assert processes_needed(0.1, ms)["readers"] == 1


def test_the_steady_rate_leaves_out_start_up_and_the_first_batch():
    points = [(30.0, 2), (32.0, 4), (34.0, 6), (36.0, 8), (39.0, 8)]
    assert steady(points, first=4) == 1.0
    with pytest.raises(UsageError, match="too few cases"):
        steady(points[:2], first=4)
    with pytest.raises(UsageError, match="too few cases"):
        steady([], first=1)


def test_units_have_the_size_of_a_run_if_there_are_enough_cases():
    assert unit_size(24576, batch=8) == 32
    assert unit_size(64, batch=1) == 4
    assert unit_size(8, batch=8) == 8


def test_a_required_percentile_sets_the_number_of_samples():
    options = {"against": None, "tolerance": "5%", "cases": None, "hours": None}
    criteria = read_criteria(
        options | {"require": "p95_latency_ms<=1,cold_start_s<=9"}, ["latency"]
    )
    assert criteria.samples == 130


GRAPH = """<ir_version: 8, opset_import: ["" : 18]>
g (float[batch, 3, 8, 4] x, float[batch, 32] v) => (float[batch, 6, 8, 4] z, float[batch, 5] w)
<float[6, 3, 3, 3] kernel = {KERNEL}, float[5, 32] matrix = {MATRIX}> {
    y = Conv<pads = [1, 1, 1, 1]>(x, kernel)
    z = Relu(y)
    w = Gemm<transB = 1>(v, matrix)
}"""


def test_flops_and_bytes_equal_a_count_by_hand(tmp_path):
    zeros = lambda n: ", ".join(["0"] * n)
    text = GRAPH.replace("KERNEL", zeros(162)).replace("MATRIX", zeros(160))
    path = tmp_path / "g.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    cost = graph_cost(path, {"batch": 2})
    conv, product = 2 * (2 * 6 * 32) * 27, 2 * 2 * 5 * 32
    conv_bytes, product_bytes = 4 * (2 * 3 * 32 + 162 + 2 * 6 * 32), 4 * (64 + 160 + 10)
    assert [(x.flops, x.bytes) for x in cost.layers] == [
        (conv, conv_bytes),
        (product, product_bytes),
    ]
    assert cost.flops == conv + product
    assert cost.bytes_unfused == conv_bytes + product_bytes + 2 * 4 * 2 * 6 * 32
    assert cost.roofline_s(1e9, 1e3) == pytest.approx((conv_bytes + product_bytes) / 1e3)
    assert cost.roofline_s(1e3, 1e9) == pytest.approx((conv + product) / 1e3)
    with pytest.raises(KeyError):
        graph_cost(path, {"depths": 2})
