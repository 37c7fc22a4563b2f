"""The profile of a step, rehearsed on the CPU: every part is there, and its times add up."""

import json
from collections import Counter

import pytest
import torch
from click.testing import CliRunner

from mcdiff_batch.bench.common.ceilings import Ceilings
from mcdiff_batch.bench.gpu.kernel_times import (
    FAMILIES,
    KernelTimes,
    add_gaps,
    family,
    split_by_family,
)
from mcdiff_batch.bench.gpu.profile import main
from tests.support.running import archive


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Two that wait for each other on a busy machine are ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def profile(phantoms, tmp_path_factory):
    """The toy preset's file, and the lines."""
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    words = ["--preset", "toy", "--steps", "1", "--data", str(phantoms), "--output", str(path)]
    ended = CliRunner().invoke(main, [*words, "--seconds", "600"], catch_exceptions=False)
    assert ended.exit_code == 0
    return json.loads(path.read_text()), ended.stdout.splitlines()


def test_every_stage_and_the_denoiser_are_measured(profile):
    parts = {x["part"]: x for x in profile[0]["parts"]}
    assert list(parts) == ["foundation", "extractor", "tuner", "denoiser float32"]
    for name, part in parts.items():
        assert "error" not in part, part
        assert part["eager_ms"] > 0
        at_ceiling = sum(x["at_ceiling_ms"] for x in part["families"].values())
        expected = at_ceiling / part.get("recorded_ms", part["eager_ms"])
        assert part["matrix_share"] == pytest.approx(expected, abs=1e-3)
        assert part["matrix_share"] > 0
        assert len(part["heaviest"]) == 10
        assert part["families"]["convolution forward"]["gflop"] > 0
        assert (part["families"]["convolution backward"]["gflop"] > 0) == (name in list(parts)[:3])


def test_the_families_add_up_to_the_profiled_time(profile):
    for part in profile[0]["parts"]:
        families = part["families"]
        assert set(families) == {name for name, _ in FAMILIES}
        total = sum(x["ms"] for x in families.values())
        assert total == pytest.approx(part["kernels_ms"], abs=1e-3)
        assert families["rest"]["ms"] < 0.3 * total


def test_the_last_line_is_the_document_of_the_file(profile):
    row, lines = profile
    assert json.loads(lines[-1]) == row
    assert row["machine"]["versions"]["torch"]
    assert max(map(len, lines[:-1])) <= 80


def test_an_archive_that_cannot_be_read_does_not_stop_the_denoiser(tmp_path):
    unlabelled = archive(tmp_path / "a.zarr", cases=2)
    words = ["--preset", "toy", "--steps", "1", "--data", str(unlabelled), "--seconds", "600"]
    ended = CliRunner().invoke(main, [*words, "--output", str(tmp_path / "out.json")])
    assert ended.exit_code == 0, ended.output
    parts = json.loads(ended.stdout.splitlines()[-1])["parts"]
    assert [x["part"] for x in parts] == ["training", "denoiser float32"]
    assert "has no label" in parts[0]["error"]
    assert parts[1]["eager_ms"] > 0


def test_gaps_are_the_times_above_the_ceiling_widest_first():
    ms = {"sm90_xmma_dgrad_x": 30.0, "RowwiseMomentsCUDAKernel": 8.0, "nvjet_x": 1.0}
    top = Ceilings(flops_per_s=1e12, bytes_per_s=1e12, where="here")
    work = Counter({"convolution backward": 10**10, "matrix product": 10**9})
    row = split_by_family(KernelTimes(ms, Counter(list(ms)), 2), work, top)
    row = add_gaps(row | {"eager_ms": 40.0, "recorded_ms": 20.0}, top)
    assert row["kernels_ms"] == 19.5
    assert row["gaps"] == [
        {"family": "convolution backward", "ms": 5.0, "step_ms_without": 15.0},
        {"family": "group norm", "ms": 4.0, "step_ms_without": 16.0},
    ]
    assert row["tflops"] == 0.55


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "convolution forward"),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16", "convolution backward"),
        ("void cudnn::ops::nchwToNhwcKernel<float, float>", "copy, cast, transpose"),
        (
            "void at::native::vectorized_elementwise_kernel<4, GroupNormKernelImplInternal<float>>",
            "group norm",
        ),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, silu_kernel>", "elementwise"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<Copy>", "optimizer"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix product"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", "attention"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reduction"),
        ("void at::native::(anonymous namespace)::upsample_nearest2d_nhwc_out_frame", "rest"),
    ],
)
def test_the_family_of_a_kernel_comes_from_its_name(name, expected):
    assert family(name).startswith(expected)
