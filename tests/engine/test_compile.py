"""`compile`: real plans for a GPU that this machine lacks, and how the graphs are fused."""

import json
import shutil
from dataclasses import replace

import pytest

from mcdiff_batch.engine.backends import trt
from mcdiff_batch.engine.backends.backend import BUILD
from mcdiff_batch.engine.backends.build_log import Kernel, summarise
from mcdiff_batch.engine.backends.plan_cache import plans
from mcdiff_batch.engine.errors import BundleError, DeviceError
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle, write_contract
from mcdiff_batch.export.bundle import Choice, export_bundle
from mcdiff_batch.export.parity import HALF_RUN_DB, HALF_X0_DB
from mcdiff_batch.train.training import checkpoint
from tests.support.crafting import command

TARGET = "sm_86"  # RTX A6000


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped bundle's plans."""
    root = tmp_path_factory.mktemp("cache")
    root.chmod(0o700)
    return plans(load_bundle(SHIPPED), TARGET, 4, root, lambda text: None)


def test_every_tuner_of_the_shipped_bundle_is_two_kernels_on_an_a6000(shipped):
    denoiser = shipped.build["plans"]["denoiser"]
    skips = len(load_bundle(SHIPPED).contract.conditions) // 2
    assert denoiser["tuner_blocks"] == denoiser["tuner_blocks_fused"] == skips
    assert set(denoiser["tuner_kernels"].values()) == {2}


def test_every_attention_is_one_kernel_and_so_is_every_group_norm_that_tensorrt_can_fuse(shipped):
    """TensorRT has a GroupNorm kernel for 64, 96, 128, ... channels: 17 of 27."""
    for name in ("conditioner", "relabel", "denoiser"):
        row = shipped.build["plans"][name]
        assert row["attentions"] == row["attentions_fused"] == 4, name
        assert row["group_norms"] == 27, name
        assert row["group_norms_fused"] >= 17, name


def test_the_denoiser_moves_no_more_data_about_than_its_narrow_group_norms_need(shipped):
    row = shipped.build["plans"]["denoiser"]
    assert row["moves"] <= 24
    assert row["kernels"] <= 180
    assert row["flops"] == pytest.approx(4 * 2.64e9, rel=0.02)


def test_the_command_finds_what_it_compiled(toy_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ("compile", "--bundle", toy_bundle, "--batch-size", 2)
    assert command(monkeypatch, *words) == 0
    first = capsys.readouterr()
    assert "compiling denoiser for sm_86, batch 2" in first.err
    assert "kept in" in first.out
    assert command(monkeypatch, *words) == 0
    second = capsys.readouterr()
    assert "compiling" not in second.err
    assert "found in" in second.out
    assert command(monkeypatch, *words, "--json") == 0
    build = json.loads(capsys.readouterr().out)
    assert build["target"] == TARGET
    assert set(build["plans"]) == {"conditioner", "relabel", "denoiser"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--target", "sm_90"), 2, "compiles for current, sm_75"),
        (("--target", "current"), 7, "such as --target sm_86"),
    ],
)
def test_a_gpu_that_cannot_be_compiled_for_ends_with_its_own_code(
    toy_bundle, tmp_path, monkeypatch, capsys, words, code, said
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command(monkeypatch, "compile", "--bundle", toy_bundle, *words) == code
    assert said in capsys.readouterr().err


def test_a_plan_with_a_flipped_bit_is_not_used_but_compiled_again(toy_bundle, tmp_path):
    bundle = load_bundle(toy_bundle)
    made = plans(bundle, TARGET, 1, tmp_path, print)
    path = made.folder / "denoiser.plan"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = plans(bundle, TARGET, 1, tmp_path, print)
    assert not again.from_cache
    assert plans(bundle, TARGET, 1, tmp_path, print).from_cache
    (again.folder / BUILD).write_text("[]")
    assert not plans(bundle, TARGET, 1, tmp_path, print).from_cache


def test_a_cache_that_others_may_write_to_is_refused(toy_bundle, tmp_path):
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(DeviceError, match="chmod 700"):
        plans(load_bundle(toy_bundle), TARGET, 1, root, print)
    assert not list(root.iterdir())


def test_a_bundle_without_graphs_in_half_is_refused(toy_bundle, tmp_path):
    folder = shutil.copytree(toy_bundle, tmp_path / "bundle")
    write_contract(replace(load_bundle(folder).contract, half=None), folder)
    with pytest.raises(BundleError, match="no float16 graphs"):
        plans(load_bundle(folder), TARGET, 1, tmp_path / "cache", print)


def test_a_tuner_block_that_is_not_fused_ends_compile(toy_bundle, tmp_path, monkeypatch):
    """A log of two kernels for W_down's half of a tuner: the block is not fused."""
    spread = trt.Compiled(plan=b"", log=LOST, flops=0)
    monkeypatch.setattr(trt, "compile_graph", lambda *_: spread)
    with pytest.raises(BundleError, match="fused 0 of 1 tuner blocks"):
        plans(load_bundle(toy_bundle), TARGET, 1, tmp_path, print)


LOST = """Layers:
Name: a_myl0_0, LayerType: correlation, Metadata: [ONNX Layer: tuner.0/node_Conv_1]
Name: b_myl0_1, LayerType: kgen, Metadata: [ONNX Layer: tuner.0/node_silu_1]
Name: c_myl0_2, LayerType: correlation, Metadata: [ONNX Layer: tuner.0/node_Conv_2]

Bindings:
"""


def test_a_kernel_that_only_casts_is_counted_as_a_move():
    kernel = lambda name, nodes: Kernel(name=name, kind="kgen", nodes=nodes, bytes=1 << 20)
    cast = kernel("__myl_CastTran_myl0_1", ("foundation.last/node__to_copy_9",))
    silu = kernel("__myl_CastSilu_myl0_2", ("foundation.last/node_silu_9",))
    assert summarise([cast, silu])["moves"] == 1


def test_half_is_near_float32_and_the_contract_records_its_parity(toy_bundle):
    half = load_bundle(toy_bundle).contract.half
    assert half is not None
    assert min(half.parity["x0_psnr_db"].values()) >= HALF_X0_DB
    assert min(half.parity["run_psnr_db_at_temperature"].values()) >= HALF_RUN_DB


def test_an_overflow_of_half_ends_the_export(toy_training, phantoms, tmp_path):
    """Weights that float16 holds, and sums that it does not; GroupNorm takes them back."""
    folder = shutil.copytree(toy_training, tmp_path / "training")
    tensors, about = checkpoint.load(folder / "weights")
    stem = tensors["foundation.stem.weight"].float()
    tensors["foundation.stem.weight"] = stem * (60000 / stem.abs().max())
    checkpoint.save(folder / "weights", tensors, about)
    choice = Choice(temperature=1)
    with pytest.raises(BundleError, match="float16 is too far"):
        export_bundle(folder, tmp_path / "bundle", phantoms, 2, choice, print)
    assert not (tmp_path / "bundle").exists()
