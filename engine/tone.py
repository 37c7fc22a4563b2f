"""The tone of a result: brightness and contrast come from the scan, not from the model.

The extractor's features say where bone is and little of how bright the scanner showed it, so that
most of a sample's distance to the truth is tone drift.  What the eye takes as one image's tone is
two numbers, and they are fitted to the optimal depth: the strongest form of low-band anchoring,
which keeps brightness comparable between cases and cannot bring an artifact back.
"""

import numpy as np

from .frame import Image, Mask


def toned(image: Image, original: Image, strip: Mask) -> Image:
    """gain * image + offset, nearest to `original` in least squares inside the strip.

    image, original [H, W] in [-1, 1].  A result that does not follow the original at all
    (gain <= 0) stays as it is: the label agreement tells on it.
    """
    x, y = (a[strip].astype(np.float64) for a in (image, original))
    spread = np.mean((x - x.mean()) ** 2)
    gain = np.mean((x - x.mean()) * (y - y.mean())) / spread if spread else 0.0
    if not gain > 0:
        return image
    fitted = y.mean() + gain * (image - x.mean())
    return np.asarray(np.clip(fitted, -1, 1), np.float32)
