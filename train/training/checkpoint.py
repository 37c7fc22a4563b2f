"""Training state on disk: tensors as safetensors, the rest as JSON, each replaced in one rename."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mcdiff_batch.engine.errors import BundleError


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """`path`.safetensors and `path`.json; a kill leaves the old pair or the new one.

    The JSON is written first and names the step; tensors carry the same step in their header.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    part = path.with_suffix(".safetensors.part")
    save_file(held, part, metadata={"about": json.dumps(about)})
    part.replace(path.with_suffix(".safetensors"))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote.  Raises BundleError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    file = path.with_suffix(".safetensors")
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["about"])
        return load_file(file), about
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{file}: is no checkpoint of mcdiff-batch ({error})") from error


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below `prefix.`, with it taken off."""
    start = prefix + "."
    return {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": x for name, x in tensors.items()}
