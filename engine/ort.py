"""The bundle's graphs on ONNX Runtime; on the CPU this is what makes everything run with no GPU."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from .contract import Bundle
from .errors import BundleError
from .frame import Image
from .plan import Conditioned, Device, Labels, Plan, PlanMaker
from .solver import Rung


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A CPU session; the same bits for a case whatever the batch, slot or thread count (tested)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises its own unrelated types
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error}); export again") from error


@dataclass(frozen=True, slots=True)
class OrtPlan:
    """Plan on ONNX Runtime.  Conditions stay a dict of arrays, fed to every step as they are."""

    conditioner: onnxruntime.InferenceSession
    denoiser: onnxruntime.InferenceSession
    condition_names: tuple[str, ...]
    batch: int

    def condition(self, depths: Image, weights: Image, strip: Image) -> Conditioned:
        names = ["label", "low", *self.condition_names]
        feed = {"depths": depths, "weights": weights, "strip": strip}
        label, *rest = self.conditioner.run(names, feed)
        held = dict(zip(names[1:], rest, strict=True)) | {"strip": strip}
        return Conditioned(conditions=held, label=np.asarray(label, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        feed = {"depths": images, "weights": weights, "strip": strip}
        return np.asarray(self.conditioner.run(["label"], feed)[0], np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        scalars = [rung.signal, rung.noise, rung.a, rung.b, rung.c, rung.anchor]
        assert isinstance(conditioned.conditions, dict)
        feed = conditioned.conditions | {
            "x": x,
            "previous": previous,
            "t": np.array([rung.t], np.float32),
            "coefficients": np.array(scalars, np.float32),
        }
        after, x0 = self.denoiser.run(["x_next", "x0"], feed)
        return after, x0


def load(
    bundle: Bundle, device: Device, batch: int, *, threads: int = 0, half: bool = False
) -> Plan:
    """`half`: the float16 graphs.  A CPU computes them in float32 and rounds between operators."""
    return OrtPlan(
        session(bundle.graph("conditioner", half=half), threads),
        session(bundle.graph("denoiser", half=half), threads),
        bundle.contract.conditions,
        batch,
    )


def maker(bundle: Bundle, threads: int) -> PlanMaker:
    """A picklable recipe for `load`, to be called inside a worker."""
    return partial(load, bundle, threads=threads)
