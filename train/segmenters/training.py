"""Trains a segmenter for the evaluation: a small U-Net that reads originals and clean targets.

It has the architecture of a bundle's extractor, but other cases, another seed and another purpose.
It is the only training that reads clean targets, because a rater has to read those too.
"""

import contextlib
import io
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import zarr
from torch import Tensor, nn
from torch.nn import functional as F

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.files import replacing
from mcdiff_batch.engine.image.frame import Frame, nearest_to_frame, to_frame
from mcdiff_batch.engine.image.metrics import mean_dice
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.train.networks.unet import UNet, Widths
from mcdiff_batch.train.training.step import autocast

from .rater import load_rater

FRAME = Frame(height=512, width=128)
WIDTHS = Widths(base=16, multipliers=(1, 2, 3), blocks=1, patch=4)
BATCH = 8
LEARNING_RATE = 3e-3
WARMUP = 50
HELD_OUT = 16  # the last of every so many cases is held out
OPSET = 18
CLASSES = 4
EVERY = 25  # steps between two lines
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """N cases on the frame; images are 0..255."""

    original: Bytes  # [N, H, W], the optimal depth
    clean: Bytes  # [N, H, W]
    label: Bytes  # [N, H, W]
    origin: dict[str, str]

    def subset(self, where: npt.NDArray[np.bool_]) -> "Examples":
        chosen = {x: getattr(self, x)[where] for x in ("original", "clean", "label")}
        return Examples(**chosen, origin=self.origin)


def read_examples(path: Path) -> Examples:
    """Reads a phantom archive.  Raises ArchiveError, CaseError."""
    archive = open_archive(path)
    group: Any = zarr.open_group(path, mode="r", use_consolidated=False)
    absent = [x for x in ("clean", "label", "optimal_depth") if x not in group]
    if absent:
        advice = "expected phantoms; make some with `mcdiff-batch phantom`"
        raise ArchiveError(f"{path}: has no {absent[0]!r}; {advice}")
    rows: dict[str, list[Bytes]] = {"original": [], "clean": [], "label": []}
    for index in range(archive.cases):
        case, (y, x) = archive.read(index), archive.extent(index)
        assert case.optimal is not None
        original = to_frame(standardise(case)[case.optimal], FRAME, black=-1.0)
        rows["original"].append(np.round((original + 1) * 127.5).astype(np.uint8))
        clean = to_frame(np.asarray(group["clean"][index])[:y, :x], FRAME, black=0.0)
        rows["clean"].append(np.round(clean).astype(np.uint8))
        rows["label"].append(nearest_to_frame(np.asarray(group["label"][index])[:y, :x], FRAME))
    origin = {f"phantom_{k}": str(v) for k, v in dict(group.attrs.get("phantom", {})).items()}
    origin |= {"cases": str(archive.cases), "archive": archive.identity}
    return Examples(**{name: np.stack(row) for name, row in rows.items()}, origin=origin)


def train_segmenter(
    data: Path, output: Path, *, seed: int, steps: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Trains on all cases except every sixteenth, writes `output`, returns its provenance."""
    examples = read_examples(data)
    last = np.arange(len(examples.label)) % HELD_OUT == HELD_OUT - 1
    if not last.any():
        raise ArchiveError(f"{data}: has {len(last)} cases, expected {HELD_OUT} or more")
    torch.manual_seed(seed)
    net = UNet(WIDTHS, outputs=CLASSES, timed=False)
    _fit(net, examples.subset(~last), np.random.default_rng(seed), steps, say)
    model = _export(net)
    about = examples.origin | {"seed": str(seed), "steps": str(steps), "batch": str(BATCH)}
    _write(model, about, output)
    about |= _held_out_dice(output, examples.subset(last))
    _write(model, about, output)
    return about


def _fit(
    net: nn.Module,
    examples: Examples,
    rng: np.random.Generator,
    steps: int,
    say: Callable[[str], None],
) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    rate = lambda i: min((i + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * i / steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    start, total = time.monotonic(), 0.0
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step in range(steps):
        image, label = _batch(examples, rng)
        with autocast(torch.device("cpu")):
            logits = net(image.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), label)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        if (step + 1) % EVERY == 0:
            say(f"{step + 1}/{steps}  loss {total / EVERY:.4f}  {time.monotonic() - start:.0f} s")
            total = 0.0


def _batch(examples: Examples, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """image [B, 1, H, W] in [-1, 1], label [B, H, W]: half originals, half clean targets."""
    chosen = rng.integers(len(examples.label), size=BATCH)
    half = BATCH // 2
    pixels = np.concatenate([examples.original[chosen[:half]], examples.clean[chosen[half:]]])
    label = examples.label[chosen].astype(np.int64)
    flip = rng.random(BATCH) < 0.5
    pixels = np.where(flip[:, None, None], pixels[..., ::-1], pixels)
    label = np.where(flip[:, None, None], label[..., ::-1], label)
    image = torch.from_numpy(pixels.astype(np.float32) / 255)[:, None]
    return _vary(image, rng), torch.from_numpy(np.ascontiguousarray(label))


def _vary(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Varies tone, sharpness and noise beyond the phantom's; black stays black.

    Maps [0, 1] to [-1, 1].
    """
    one = lambda low, high: torch.from_numpy(
        rng.uniform(low, high, (len(image), 1, 1, 1)).astype(np.float32)
    )
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    inside = image > 0
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    softened = torch.lerp(image, soft, one(0.0, 0.8))
    toned = softened.clamp(min=1e-4) ** torch.exp(one(-0.6, 0.6))
    toned = toned * one(0.7, 1.3) + one(-0.08, 0.08)
    toned = toned + one(0.0, 0.05) * noise
    return torch.where(inside, toned.clamp(0, 1), image) * 2 - 1


class _Reader(nn.Module):
    """Maps an image [1, 1, H, W] in [-1, 1] to a label map [1, H, W] u1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits.argmax(dim=1).to(torch.uint8)


def _export(net: nn.Module) -> onnx.ModelProto:
    """The ONNX graph for one image at a time, without the file names that the exporter adds."""
    example = (torch.zeros(1, 1, FRAME.height, FRAME.width),)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Reader(net).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["label"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    for thing in (*graph.node, *graph.value_info, *graph.input, *graph.output, graph, model):
        del thing.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def _write(model: onnx.ModelProto, about: dict[str, str], path: Path) -> None:
    onnx.helper.set_model_props(model, about)
    with replacing(path) as spare:
        spare.write_bytes(model.SerializeToString(deterministic=True))


def _held_out_dice(path: Path, examples: Examples) -> dict[str, str]:
    """The Dice of the written file, mean over cases and classes."""
    rater = load_rater(path)

    def score(images: Bytes) -> str:
        pairs = zip(images, examples.label, strict=True)
        values = [mean_dice(rater.read(x.astype(np.float32) / 255), y) for x, y in pairs]
        return f"{np.mean(values):.4f}"

    return {"dice_original": score(examples.original), "dice_clean": score(examples.clean)}
