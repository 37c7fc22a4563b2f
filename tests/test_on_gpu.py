"""On a real GPU: every plan that runs there deserves trust, and a run on it is the CPU's."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.devices import plans_on
from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.gpus import gpus
from mcdiff_batch.engine.plan import Device
from mcdiff_batch.engine.preflight import elsewhere
from mcdiff_batch.engine.quality import psnr

from .crafting import command
from .running import committed

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def enhanced(output: Path):
    found = np.asarray(zarr.open_group(output / "images.zarr", mode="r")["enhanced"])
    return found.astype(np.float32) / 255


def test_every_plan_of_a_gpu_can_be_trusted(tmp_path):
    kinds = plans_on(gpus()[0])
    assert kinds
    for kind in kinds:
        where = Device(kind="cuda", index=0)
        _, verdict = elsewhere(load_bundle(SHIPPED), kind, where, 8, tmp_path, None)
        assert verdict.faults == []


def test_a_run_on_a_gpu_is_the_cpus_and_comes_to_the_same_bytes_again(phantoms, monkeypatch):
    names = {"cpu": "cpu", "first": "cuda:0", "second": "cuda:0"}
    outputs = {name: phantoms.parent / name for name in names}
    for name, device in names.items():
        words = ("run", "--input", phantoms, "--output", outputs[name], "--devices", device)
        assert command(monkeypatch, *words, "--limit", 16) == Exit.DONE
    assert committed(outputs["first"]) == committed(outputs["second"])
    images = [enhanced(outputs[name])[:16] for name in ("cpu", "first")]
    for mine, theirs in zip(*images, strict=True):
        assert psnr(mine, theirs, np.ones(mine.shape, np.bool_)) > 45
