"""Trained weights on disk: what a training writes, and what another training may start from."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcdiff_batch.engine.backends.ort import CPU, REFERENCE
from mcdiff_batch.engine.errors import BundleError, FingerprintError, UsageError
from mcdiff_batch.engine.files import file_sha256, replace_text
from mcdiff_batch.engine.model.contract import Bundle, load_bundle
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.train.cases.data import Dataset
from mcdiff_batch.train.networks.presets import Preset, preset_from, with_defaults
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.networks.unet import UNet

from . import checkpoint
from .loop import Setting

Tensors = dict[str, Tensor]
STORED = "/stored"  # suffix of the name of a weight that a graph holds in float16
KINDS = (  # settings that change the meaning of weights, but not always their shapes
    "residual",
    "conditions",
    "prediction",
    "reads",
    "sigma_b",
    "sigma_b_input",
    "early_fusion",
)
PARITY = 1e-3  # largest difference allowed, relative to the largest value: float32 against float32


def write_weights(nets: Networks, folder: Path, about: dict[str, Any]) -> str:
    """Writes `weights.safetensors`, rounded to float16 once for all; returns its SHA-256."""
    tensors: Tensors = {}
    for name, model in nets.all().items():
        tensors |= checkpoint.add_prefix(name, {k: v.half() for k, v in model.state_dict().items()})
    path = folder / "weights"
    checkpoint.save(path, tensors, about)
    return file_sha256(path.with_suffix(".safetensors"))


def read_weights(folder: Path) -> tuple[Networks, dict[str, Any]]:
    """Reads the trained networks of `folder`, in float32 on the CPU, and their card."""
    tensors, about = checkpoint.load(folder / "weights")
    nets = Networks(preset_from(about["preset"]), torch.device("cpu"))
    for name, model in nets.all().items():
        state = {k: v.float() for k, v in checkpoint.select_prefix(name, tensors).items()}
        model.load_state_dict(state)
        model.requires_grad_(False).eval()
    return nets, json.loads((folder / "card.json").read_text())


def pin_training(preset: Preset, train: Dataset, setting: Setting) -> None:
    """Writes training.json, or compares it: a folder belongs to one preset, data, seed and source.

    Raises FingerprintError if the folder belongs to another training.
    """
    path = setting.folder / "training.json"
    mine = {
        "preset": asdict(preset),
        "data_sha256": train.sha256,
        "seed": setting.seed,
        "from_sha256": source_sha256(setting.source),
    }
    mine = json.loads(json.dumps(mine))
    if path.exists():
        theirs = json.loads(path.read_text())
        theirs["preset"] = with_defaults(theirs["preset"])
        for key, value in mine.items():
            if theirs.get(key) != value:
                raise FingerprintError(
                    f"{path}: this folder belongs to a training with another {key}; use another "
                    "--output"
                )
    elif setting.rank == 0:
        setting.folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(mine, indent=1) + "\n")


def source_sha256(source: Path | None) -> str | None:
    """The hash of what a training starts from: of the weights, or of the bundle's contract."""
    if source is None:
        return None
    trained = source / "weights.safetensors"
    return file_sha256(trained) if trained.exists() else load_bundle(source).sha256


def start_from(nets: Networks, source: Path) -> None:
    """Loads the weights of a training folder or of a bundle into `nets`.

    Raises UsageError if the networks differ in shape or kind, BundleError if `source` is neither,
    or if the weights from a bundle do not compute what the bundle computes.
    """
    if (source / "weights.safetensors").exists():
        tensors, about = checkpoint.load(source / "weights")
        _check_kind(nets.preset, about["preset"], source)
        _take(nets, {k: v.float() for k, v in tensors.items()}, source)
        return
    bundle = load_bundle(source)
    _check_kind(nets.preset, bundle.contract.training.get("preset", {}), source)
    home = nets.device
    nets.to(torch.device("cpu"))  # computes in float32, as the bundle does; a GPU may use TF32
    _take(nets, _from_graphs(nets, bundle), source)
    _check_parity(nets, bundle)
    nets.to(home)


def _check_kind(mine: Preset, theirs: dict[str, Any], source: Path) -> None:
    """Compares the settings of KINDS, as far as the source says them."""
    for field in KINDS:
        value = getattr(mine, field)
        if theirs.get(field, value) != value:
            raise UsageError(
                f"{source}: was trained with {field} {theirs[field]}, expected {value}; train with "
                "the same setting, or without --from"
            )


def _take(nets: Networks, tensors: Tensors, source: Path) -> None:
    for part, model in nets.all().items():
        wanted, given = model.state_dict(), checkpoint.select_prefix(part, tensors)
        for name, x in wanted.items():
            if name not in given or given[name].shape != x.shape:
                shape = tuple(given[name].shape) if name in given else "absent"
                raise UsageError(
                    f"{source}: {part}.{name} is {shape}, expected {tuple(x.shape)}; start from a "
                    "model of the same preset, or without --from"
                )
        model.load_state_dict({name: given[name] for name in wanted})


def _from_graphs(nets: Networks, bundle: Bundle) -> Tensors:
    """Reads the weights from a bundle's two graphs.

    Convolutions and linear layers keep their names.  A GroupNorm becomes InstanceNormalization,
    Mul, Add, in the order in which the network calls it.  W_up's bias is added last to star_i.
    """
    import onnx
    from onnx import numpy_helper

    tensors: Tensors = {}
    for name in ("conditioner", "denoiser"):
        graph = onnx.load(str(bundle.graph(name))).graph
        constants = {x.name: numpy_helper.to_array(x).copy() for x in graph.initializer}
        weights = {
            key.removesuffix(STORED): torch.from_numpy(x).float() for key, x in constants.items()
        }
        tensors |= {key: x for key, x in weights.items() if key.split(".")[0] in nets.all()}
        part = "extractor" if name == "conditioner" else "foundation"
        order = _norm_order(getattr(nets, part))
        for norm, pair in zip(order, _norms(graph, weights), strict=False):
            for key, x in zip(("weight", "bias"), pair, strict=True):
                tensors[f"{part}.{norm}.{key}"] = x.flatten()
        for node in graph.node:
            kind, _, i = node.output[0].rpartition("_")
            if kind == "star":
                bias = next(weights[x] for x in node.input if x in weights)
                tensors[f"tuner.{i}.up.bias"] = bias.flatten()
    return tensors


def _norms(graph: Any, weights: Tensors) -> Iterator[tuple[Tensor, ...]]:
    """The scale and shift of each InstanceNormalization, in the order of the graph."""
    user = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "InstanceNormalization":
            scale = user[user[node.output[0]].output[0]]  # behind a Reshape
            shift = user[scale.output[0]]
            yield tuple(next(weights[x] for x in n.input if x in weights) for n in (scale, shift))


def _norm_order(model: UNet) -> list[str]:
    """The names of the GroupNorms, in the order in which a forward pass calls them."""
    names = {module: name for name, module in model.named_modules()}
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda m, *_: called.append(names[m]))
        for module in names
        if isinstance(module, nn.GroupNorm)
    ]
    with torch.no_grad():
        channels = model.stem.in_channels // model.patch**2
        model(torch.zeros(1, channels, 64, 64), torch.ones(1))
    for hook in hooks:
        hook.remove()
    return called


@torch.no_grad()
def _check_parity(nets: Networks, bundle: Bundle) -> None:
    """Compares the conditions and x0-hat of random input, from the bundle and from `nets`."""
    frame, depths = bundle.contract.frame, len(bundle.contract.depth_weights)
    rng = np.random.default_rng(0)
    draw = lambda *n: rng.uniform(-1, 1, (1, *n, frame.height, frame.width)).astype(np.float32)
    stack, x, strip = draw(depths), draw(1), np.ones((1, 1, frame.height, frame.width), np.float32)
    weights = np.full((1, depths), 1 / depths, np.float32)
    plan = REFERENCE.load(bundle, CPU, batch=1)
    scan = draw(1)
    conditioned = plan.condition(stack, weights, strip, scan)
    mine = nets.conditions(torch.from_numpy(stack), torch.from_numpy(weights))
    conditions: Any = conditioned.conditions
    named = [((f"down_{i}", down), (f"star_{i}", star)) for i, (down, star) in enumerate(mine)]
    pairs = [pair for both in named for pair in both]
    rung = Rung(t=500.0, signal=0.6, noise=0.8, a=0.0, b=1.0, c=0.0)
    _, x0 = plan.step(x, np.zeros_like(x), rung, conditioned)
    t, signal, noise = (torch.full((1,), value) for value in (rung.t, rung.signal, rung.noise))
    of_scan = torch.from_numpy(scan)
    mine_x0 = nets.x0(torch.from_numpy(x), t, signal, noise, of_scan, mine).clamp(-1, 1)
    theirs = [*(conditions[name] for name, _ in pairs), x0]
    for (name, a), b in zip([*pairs, ("x0", mine_x0)], theirs, strict=True):
        off = float(np.abs(a.numpy() - b).max() / max(1e-6, np.abs(b).max()))
        if off > PARITY:
            raise BundleError(
                f"{bundle.root}: weights read from it compute {name} with a relative error of "
                f"{off:.1e}, expected {PARITY:.0e} at most; start from the training folder that it "
                "was exported from"
            )
