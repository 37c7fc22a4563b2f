"""The card of a training: its data, settings and results, as JSON and as a page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.files import replace_text
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.cases.data import Dataset
from mcdiff_batch.train.networks.trio import Networks

from .card_page import experiments, page
from .loop import Setting
from .weights import source_sha256, write_weights

PACKAGES = ("safetensors", "torch")


def write_card(
    nets: Networks, setting: Setting, sides: tuple[Dataset, Dataset], records: dict[str, Any]
) -> None:
    """Writes the weights, `card.json` and `card.html` into the folder.

    sides: the cases to train on, and those held out.
    """
    about = {"preset": asdict(nets.preset), "seed": setting.seed}
    train, held_out = sides
    card = about | {
        "weights_sha256": write_weights(nets, setting.folder, about),
        "from_sha256": source_sha256(setting.source),
        "data": train.origin | {"sha256": train.sha256},
        "command": setting.command,
        "cases": {
            "train": len(train),
            "held_out": len(held_out),
            "artifact_free": int(train.artifact_free.sum()),
        },
        "split": "by patient",
        "sides": {"train": _side(train), "held_out": _side(held_out)},
        "held_out": {
            name: {k: v for k, v in record["history"][-1].items() if k not in ("step", "loss")}
            for name, record in records.items()
        },
        "device": _device(setting),
        "torch": str(torch.__version__),
        "machine": machine(PACKAGES),
        "experiments": setting.experiments,
        "stages": records,
    }
    replace_text(setting.folder / "card.json", json.dumps(card, indent=1) + "\n")
    pictures = {x.stem: x for x in sorted((setting.folder / "samples").glob("*.png"))}
    replace_text(setting.folder / "card.html", page(card, _first_and_last(pictures)))


def read_experiments(path: Path) -> dict[str, Any]:
    """The output of `bench experiments`.  Raises UsageError if the card cannot show it."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        list(experiments(document))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--experiments {path}: is no output of `bench experiments` ({type(error).__name__}: "
            f"{error}); name the file that its --output wrote"
        ) from error
    return document


def _side(data: Dataset) -> dict[str, int]:
    return {
        "patients": len(set(data.patient.tolist())),
        "cases": len(data),
        "artifact_free": int(data.artifact_free.sum()),
    }


def _device(setting: Setting) -> str:
    """The device, with the GPU's name and the number of processes."""
    cuda = setting.device.type == "cuda"
    name = f"cuda ({torch.cuda.get_device_name(setting.device)})" if cuda else "cpu"
    return name if setting.world == 1 else f"{setting.world} x {name}"


def _first_and_last(pictures: dict[str, Path]) -> dict[str, bytes]:
    """The first and the last picture of each stage, so that the page stays small."""
    chosen: dict[str, bytes] = {}
    for stage in ("foundation", "tuner"):
        names = [x for x in pictures if x.startswith(f"{stage}_")]
        chosen |= {x: pictures[x].read_bytes() for x in (*names[:1], *names[-1:])}
    return chosen
