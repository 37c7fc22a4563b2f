"""The paper's figures, to be printed beside what is measured here.

Its "dB" of CNR and SNR are 20 ln (train/README.md, Measures); its dB of PSNR are 10 log10.
"""

from typing import Any, NamedTuple


class Angles(NamedTuple):
    """ICC with its 95 % interval, MAD and SEM in degrees."""

    icc: float
    low: float
    high: float
    mad: float
    sem: float


# Table II, d = 1 .. 5: the paper's method; means of its best rival (GFE-Net).
MS_SSIM = (0.71, 0.83, 0.90, 0.86, 0.77)
PSNR = (15.30, 17.59, 19.69, 18.65, 16.48)
MEANS = {"ms_ssim": 0.81, "psnr": 17.54}
RIVAL_MEANS = {"ms_ssim": 0.76, "psnr": 16.45}

# Table III: mean and sd, 20 ln.
ORIGINAL = {"cnr_ln": (9.17, 2.54), "snr_ln": (26.78, 1.72)}
ENHANCED = {"cnr_ln": (16.87, 0.65), "snr_ln": (33.96, 1.72)}

# Table V: means, 20 ln, with the optimal depth's features and with its segmentation; the third
# condition, features of all depths, is Table III's enhanced.
TABLE_V = {
    "optimal depth": {"cnr_ln": 12.29, "snr_ln": 30.87},
    "segmentation": {"cnr_ln": 9.13, "snr_ln": 30.92},
}

# Table IV: (thoracic, lumbar) of original and enhanced images.
INTRA_RATER = {  # rater I; rater II is no better on the original
    "original": (Angles(0.92, 0.88, 0.94, 3.45, 2.32), Angles(0.85, 0.78, 0.89, 3.78, 2.25)),
    "enhanced": (Angles(0.94, 0.91, 0.96, 3.35, 2.07), Angles(0.91, 0.87, 0.94, 3.24, 1.73)),
}
INTER_RATER = {
    "original": (Angles(0.85, 0.60, 0.92, 5.19, 3.67), Angles(0.82, 0.73, 0.88, 3.97, 2.81)),
    "enhanced": (Angles(0.91, 0.86, 0.94, 3.80, 2.69), Angles(0.89, 0.83, 0.93, 3.34, 2.36)),
}


def figures() -> dict[str, Any]:
    """All figures for a JSON document; a pair is mean and sd, angles are (thoracic, lumbar)."""
    angles = {"intra_rater": INTRA_RATER, "inter_rater": INTER_RATER}
    return {
        "table_ii": {"ms_ssim": MS_SSIM, "psnr": PSNR, "mean": MEANS, "best_rival": RIVAL_MEANS},
        "table_iii": {"original": ORIGINAL, "enhanced": ENHANCED},
        "table_iv": {
            kind: {image: [x._asdict() for x in pair] for image, pair in rows.items()}
            for kind, rows in angles.items()
        },
        "table_v": TABLE_V,
    }
