"""What an enhancement is compared with: floors, other methods, and the ceiling."""

from collections.abc import Mapping

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.framing import FramedCase

ORIGINAL, MEAN, NLM = "original", "depth mean", "non-local means"
ENHANCED, CLEAN = "enhanced", "clean target"
METHODS = (ORIGINAL, MEAN, NLM, ENHANCED, CLEAN)  # rows of every table; others go before ENHANCED
FLOORS = (MEAN, NLM)
NLM_STRENGTHS = (0.01, 0.02, 0.04)  # in [0, 1]; a larger one was never the best by PSNR to clean


def methods(
    case: FramedCase, clean: Image, others: Mapping[str, Image], enhanced: Image
) -> dict[str, Image]:
    """The image [H, W] in [0, 1] of each method on the frame, in the order of the tables.

    clean: the phantom's clean target; others: images of other methods, by name.
    """
    unit = (case.depths + 1) / 2
    original = unit[case.optimal]
    mean = np.einsum("d,dhw->hw", case.weights, unit)
    best = best_non_local_means(original, clean, case)
    floors = {ORIGINAL: original, MEAN: mean, NLM: best}
    return floors | dict(others) | {ENHANCED: enhanced, CLEAN: clean}


def best_non_local_means(image: Image, clean: Image, case: FramedCase) -> Image:
    """Non-local means (Buades et al. 2005) at the strength with the best PSNR to clean."""
    from skimage.restoration import denoise_nl_means

    images = [denoise_nl_means(image, patch_size=5, patch_distance=9, h=h) for h in NLM_STRENGTHS]
    best: Image = max(images, key=lambda x: psnr(x, clean, case.strip))
    return np.where(case.strip, best, image).astype(np.float32)
