"""The blind comparison: which side shows the enhanced image, and in which order cases come.

Both are drawn from the seed, the reviewer and the case, so they are the same after a restart and
do not depend on which other cases there are.
"""

import hashlib

from mcdiff_batch.engine.output.verdicts import EQUAL, LEFT, NONE, RIGHT, Verdict

SIDES = (LEFT, RIGHT)
ENHANCED, ORIGINAL = "enhanced", "original"


def draw(what: str, seed: int, reviewer: str, case: int) -> int:
    """A uniform number of 64 bits."""
    key = f"{what}/{seed}/{reviewer}/{case}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


def enhanced_side(seed: int, reviewer: str, case: int) -> str:
    return SIDES[draw("side", seed, reviewer, case) % 2]


def find_better(verdict: Verdict) -> str:
    """The image that a reviewer preferred: "enhanced", "original", "equal", or "" if none."""
    if verdict.preferred in (None, NONE):
        return ""
    if verdict.preferred == EQUAL:
        return EQUAL
    return ENHANCED if verdict.preferred == verdict.enhanced else ORIGINAL
