"""Draws the page of `mcdiff-batch review` as README shows it, from phantoms made for this."""

import io
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from PIL import Image

from mcdiff_batch.bench.common.browser import Browser, chromium
from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.verdicts import ACCEPT, REJECT, Verdict, append

from .waiting import SHOWN, serving

CASES, SEED = 24, 19
CUT = (5, 11, 17)  # cases of which the last depth shows only the upper part, so they are flagged
JUDGED = {0: ACCEPT, 1: ACCEPT, 2: REJECT, 3: ACCEPT, 5: ACCEPT}
SHOWN_CASES = (11, 4)  # one that is flagged, and one that is not
WIDTH, HEIGHT = 1200, 760  # px
GREYS = 80


def draw(folder: Path) -> list[Path]:
    """Writes review.png and review_dark.png.  Needs chromium and the shipped model."""
    with tempfile.TemporaryDirectory(prefix="mcdiff-review-") as name:
        output = _prepare(Path(name))
        with serving(output, "--reviewer", "anna") as (url, _, _), chromium() as browser:
            _open(browser, url, SHOWN_CASES[0], "light")
            _press(browser, "l")
            files = [_save(browser, folder / "review.png")]
            _open(browser, url, SHOWN_CASES[1], "dark")
            _press(browser, "d", "l")
            files.append(_save(browser, folder / "review_dark.png"))
    return files


def _prepare(root: Path) -> Path:
    """An output in which some cases are flagged and some were judged."""
    archive = root / "night.zarr"
    for words in (
        ["phantom", "--output", archive, "--cases", CASES, "--seed", SEED],
        ["run", archive, "--devices", "cpu"],
    ):
        if words[0] == "run":
            depths: Any = zarr.open_group(archive, mode="r+")["depths"]
            for case in CUT:
                depths[case, -1, depths.shape[2] * 2 // 5 :] = 0
        subprocess.run([*CLI, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    output = archive.with_suffix(".enhanced")
    for entry in ledger.read(output, 0).cases:
        if entry.case in JUDGED:
            verdict = JUDGED[entry.case]
            reason = "shape or angle changed" if verdict == REJECT else ""
            append(
                output,
                Verdict(case=entry.case, pixels=entry.pixels, verdict=verdict, reason=reason),
            )
    return output


def _open(browser: Browser, url: str, case: int, scheme: str) -> None:
    browser.open(url, width=WIDTH, height=HEIGHT, prefers_color_scheme=scheme)
    browser.wait_for(SHOWN)
    browser.press("g")
    browser.call("Input.insertText", text=str(case))
    browser.press("Enter")
    browser.wait_for(f'{SHOWN} === "{case}"')


def _press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.press(key)
        time.sleep(0.5)


def _save(browser: Browser, path: Path) -> Path:
    """Writes a small PNG: some grey levels, and the most frequent of the other colours."""
    picture = Image.open(io.BytesIO(browser.shoot())).convert("RGB")
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    order = np.argsort(counts)[::-1]
    bright = [x for x in colours[order] if np.ptp(x)][: 256 - GREYS]
    greys = [np.full(3, x) for x in np.linspace(0, 255, GREYS).round()]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.array([*greys, *bright]).astype(np.uint8).ravel().tolist())
    few = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path
