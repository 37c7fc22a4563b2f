"""Export: the bundle computes what PyTorch does, and says what it is."""

import json
import shutil

import numpy as np
import onnx
import pytest

from mcdiff_batch.engine.backends.ort import REFERENCE
from mcdiff_batch.engine.errors import BundleError, UsageError
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.model.ladder import recommended_rungs
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.export.bundle import Choice, export_bundle
from mcdiff_batch.export.onnx import FEW
from mcdiff_batch.export.parity import PARITY_DB

CPU = Device(kind="cpu", index=0)


def inputs(contract, cases, depths=5):
    rng = np.random.default_rng(0)
    grid = (contract.frame.height, contract.frame.width)
    stack = rng.random((cases, depths, *grid), dtype=np.float32) * 2 - 1
    weights = np.full((cases, depths), 1 / depths, np.float32)
    return stack, weights, np.ones((cases, 1, *grid), np.float32), stack[:, 2, None]


def test_the_contract_names_every_tensor_and_records_parity_and_fidelity(toy_bundle):
    contract = load_bundle(toy_bundle).contract
    assert min(contract.parity["x0_psnr_db"].values()) >= PARITY_DB
    assert contract.parity["labels_equal"]
    assert contract.sampler.nfe == len(contract.sampler.ladder)
    assert contract.sampler.cases == 2
    assert {x.name for x in contract.denoiser.inputs} >= {"x", "t", *contract.conditions}
    assert contract.training["seed"] == 0
    assert (contract.optimal_share, contract.training["preset"]["optimal_share"]) == (0.25, 0)
    assert "Not a medical device" in contract.licence
    assert [x["evaluations"] for x in contract.scores][-3:] == [10, 10, 1000]
    assert contract.sampler.figures["recommended_by"] == "quality to clean"


def test_weights_are_stored_in_float16_and_computed_in_float32(toy_bundle):
    for file in ("conditioner.onnx", "denoiser.onnx"):
        graph = onnx.load(str(toy_bundle / file)).graph
        long = [x for x in graph.initializer if np.prod(x.dims) >= FEW]
        assert long
        assert {x.data_type for x in long} == {onnx.TensorProto.FLOAT16}
        assert not any(
            x.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for x in graph.input
        )


def test_the_graphs_hold_no_path_of_the_machine_that_made_them(toy_bundle):
    for file in toy_bundle.glob("*.onnx"):
        data = file.read_bytes()
        assert b"site-packages" not in data
        assert b".py" not in data


@pytest.mark.parametrize("threads", [1, 2, 3, 6])
def test_a_case_comes_to_the_same_bits_in_every_slot_at_every_batch_and_thread_count(
    toy_bundle, threads
):
    bundle = load_bundle(toy_bundle)
    given, rung = inputs(bundle.contract, 4), recommended_rungs(bundle.contract)[0]
    together = REFERENCE.load(bundle, CPU, 4, threads=threads)
    alone = REFERENCE.load(bundle, CPU, 1, threads=1)
    batch = everything(together, rung, given)
    for slot in range(4):
        one = everything(alone, rung, [x[slot : slot + 1] for x in given])
        for name, value in one.items():
            assert (value[0] == batch[name][slot]).all(), name


def everything(plan, rung, given) -> dict[str, np.ndarray]:
    """What a plan makes of cases, by name."""
    found = plan.condition(*given)
    x, strip = given[0][:, :1], given[2]
    after, x0 = plan.step(x, -x, rung, found)
    made = {"before": found.label, "x": after, "x0": x0, "after": plan.relabel(x, strip)}
    return found.conditions | made


def test_one_image_is_labelled_by_the_same_graph_as_a_stack(toy_bundle):
    bundle = load_bundle(toy_bundle)
    depths, _, strip, scan = inputs(bundle.contract, 2)
    plan = REFERENCE.load(bundle, CPU, 2)
    only_first = np.tile(np.array([1, 0, 0, 0, 0], np.float32), (2, 1))
    assert (
        plan.relabel(depths[:, :1], strip) == plan.condition(depths, only_first, strip, scan).label
    ).all()


def test_export_does_not_overwrite_and_leaves_nothing_half_made(toy_training, toy_bundle, phantoms):
    choice = Choice(temperature=1)
    with pytest.raises(UsageError, match="exists already"):
        export_bundle(toy_training, toy_bundle, phantoms, 2, choice, print)
    assert not list(toy_bundle.parent.glob(".*.partial"))


def damaged(bundle, tmp_path, change):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    change(copy)
    return copy


def edited(**changes):
    def change(folder):
        path = folder / "contract.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def flip(folder):
    data = bytearray((folder / "denoiser.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "denoiser.onnx").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "SHA-256"),
        (lambda x: (x / "denoiser.onnx").unlink(), "is missing"),
        (lambda x: (x / "contract.json").unlink(), "cannot be read"),
        (lambda x: (x / "contract.json").write_text("{"), "is not JSON"),
        (edited(schema=99), "schema is 99"),
        (edited(frame={"height": 128, "width": 32}), "frame is"),
        (edited(sampler=None), "missing or wrong"),
        (lambda x: edited(denoiser=graph_at(x, "../x.onnx"))(x), "outside the bundle"),
    ],
)
def test_a_bundle_that_is_not_what_its_contract_says_is_refused(toy_bundle, tmp_path, change, said):
    with pytest.raises(BundleError, match=said):
        load_bundle(damaged(toy_bundle, tmp_path, change))


def graph_at(folder, name):
    return json.loads((folder / "contract.json").read_text())["denoiser"] | {"file": name}


def test_the_shipped_bundle_is_whole_and_small_enough():
    from mcdiff_batch.engine.model.contract import SHIPPED

    bundle = load_bundle(SHIPPED)
    sizes = [file.stat().st_size for file in SHIPPED.iterdir()]
    assert sum(sizes) <= 24e6
    assert max(sizes) <= 16e6
    assert (bundle.contract.frame.height, bundle.contract.frame.width) == (512, 128)
