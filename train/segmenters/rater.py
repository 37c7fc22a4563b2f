"""Segmenters that only the evaluation uses.  They read an image as a human rater would.

They are trained apart from every bundle (training.py) and run on ONNX Runtime.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from mcdiff_batch.engine.backends.ort import session
from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.engine.image.frame import Frame, Image, Labels

SHIPPED = tuple(Path(__file__).parent / name for name in ("a.onnx", "b.onnx"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """One segmenter, and the frame that it was trained on."""

    frame: Frame
    about: dict[str, str]  # provenance
    graph: onnxruntime.InferenceSession

    def read(self, image: Image) -> Labels:
        """The label map [H, W] of an image [H, W] in [0, 1], both on the rater's frame."""
        signed = np.asarray(image * 2 - 1, np.float32)
        label: Labels = self.graph.run(["label"], {"image": signed[None, None]})[0][0]
        return label


def load_rater(path: Path) -> Rater:
    """Loads a segmenter.  Raises BundleError if `path` is not one."""
    graph = session(path, threads=1)
    image, *others = graph.get_inputs()
    if others or image.name != "image" or len(image.shape) != 4:
        raise BundleError(f"{path}: is not a segmenter; make one with `mcdiff-batch segmenter`")
    return Rater(
        frame=Frame(height=image.shape[2], width=image.shape[3]),
        about=dict(graph.get_modelmeta().custom_metadata_map),
        graph=graph,
    )
