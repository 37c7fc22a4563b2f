"""The starting noise of a case."""

import hashlib

import numpy as np
import numpy.typing as npt


def gaussian(
    seed: int, case: str, shape: tuple[int, ...], draw: int = 0
) -> npt.NDArray[np.float32]:
    """Noise that depends only on (seed, case, draw), not on batch, order or device (P4)."""
    name = f"{seed}/{draw}/{case}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest())
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
