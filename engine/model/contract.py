"""The contract of a bundle, `contract.json`: written by export, read and checked by engine."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.engine.files import file_sha256, from_json, replace_text
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.image.gate import Gate

from .schedule import Schedule

SCHEMA = 2
SHIPPED = Path(__file__).parents[1] / "bundles" / "small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a graph; the free dimensions are "batch" and "depths"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX file of the bundle."""

    file: str
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """The graphs for GPUs: networks in float16, solver arithmetic and images in float32."""

    conditioner: Graph
    denoiser: Graph
    parity: dict[str, Any] = field(default_factory=dict)  # measured against float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """A solver and a ladder, with the measured PSNR of its samples to those of 1000-step DDIM."""

    solver: str
    ladder: tuple[float, ...]
    nfe: int  # network evaluations
    psnr_median_db: float
    psnr_min_db: float
    cases: int
    temperature: float = 1.0  # scale of the starting noise; 0: no noise
    weights: tuple[tuple[float, float, float], ...] = ()  # a, b, c of each step, if fitted
    figures: dict[str, Any] = field(default_factory=dict)  # measured on the results of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Everything that the engine has to know about a model.

    Graph `conditioner`: depths [B, D, H, W], weights [B, D], strip [B, 1, H, W]
        -> label [B, H, W] u1, conditions (one or more tensors).
    Graph `denoiser`: x [B, 1, H, W], previous [B, 1, H, W], t [1], coefficients [5] (signal, noise,
        a, b, c), strip, scan [B, 1, H, W] (the optimal depth, in [-1, 1]), conditions
        -> x_next, x0; x0 is clamped, and -1 outside the strip.
    """

    name: str
    frame: Frame
    depth_weights: tuple[float, ...]
    classes: tuple[str, ...]
    schedule: Schedule
    sampler: Sampler  # the recommended one
    conditioner: Graph
    denoiser: Graph
    half: Half | None = None
    training: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    gate: Gate | None = None  # None: cases are not flagged
    licence: str = ""
    ladders: tuple[Sampler, ...] = ()  # alternatives with other numbers of evaluations
    optimal_share: float = 0.0  # part of the fusion weights that the optimal depth gets first
    scores: tuple[dict[str, Any], ...] = ()  # of all samplers measured, and of the reference
    schema: int = SCHEMA

    @property
    def graphs(self) -> tuple[Graph, ...]:
        half = (self.half.conditioner, self.half.denoiser) if self.half else ()
        return (self.conditioner, self.denoiser, *half)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the tensors that the conditioner passes to the denoiser."""
        return tuple(x.name for x in self.conditioner.outputs if x.name != "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle folder that was read; the hashes of its files are checked."""

    contract: Contract
    root: Path
    sha256: str  # of contract.json, which has the hashes of the other files

    def graph(self, name: str, *, half: bool = False) -> Path:
        """Path of "conditioner" or "denoiser".  Raises BundleError if there is none in float16."""
        if half and self.contract.half is None:
            raise BundleError(
                f"{self.root}: has no float16 graphs for GPUs; export the bundle again"
            )
        graph: Graph = getattr(self.contract.half if half else self.contract, name)
        return self.root / graph.file


def write_contract(contract: Contract, root: Path) -> Path:
    """Writes contract.json into `root` and returns its path.  It is complete or as before."""
    path = root / "contract.json"
    replace_text(path, json.dumps(asdict(contract), indent=1) + "\n")
    return path


def load_bundle(root: Path) -> Bundle:
    """Reads a bundle folder and checks its files.  Raises BundleError."""
    path = root / "contract.json"
    try:
        text = path.read_bytes()
        raw = json.loads(text)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); expected a bundle folder such as "
            "`mcdiff-batch export` writes"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}: is not JSON ({error}); export the bundle again") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise BundleError(f"{path}: schema is {found}, expected {SCHEMA}; export the bundle again")
    try:
        contract = from_json(raw, Contract)
    except ValueError as error:
        raise BundleError(
            f"{path}: a field is missing or wrong ({error}); export the bundle again"
        ) from error
    for graph in contract.graphs:
        _check_file(root, graph)
    _check_frame(path, contract)
    return Bundle(contract=contract, root=root, sha256=hashlib.sha256(text).hexdigest())


def _check_file(root: Path, graph: Graph) -> None:
    path = root / graph.file
    if Path(graph.file).name != graph.file:
        raise BundleError(
            f"{root}: graph {graph.file!r} is outside the bundle, expected a file in it"
        )
    if not path.is_file():
        raise BundleError(f"{path}: is missing, but the contract names it; copy the whole bundle")
    found = file_sha256(path)
    if found != graph.sha256:
        raise BundleError(
            f"{path}: SHA-256 is {found[:12]}..., expected {graph.sha256[:12]}...; "
            "the file was changed or damaged; copy or export the bundle again"
        )


def _check_frame(path: Path, contract: Contract) -> None:
    expected = (contract.frame.height, contract.frame.width)
    for graph in contract.graphs:
        for tensor in graph.inputs:
            on_frame = tensor.name in ("depths", "x", "strip", "scan")
            if on_frame and tensor.shape[2:] != expected:
                raise BundleError(
                    f"{path}: {tensor.name} is {tensor.shape[2:]} px, but the contract's frame is "
                    f"{expected} px; export the bundle again"
                )
