"""Training state on disk: one safetensors file, which a save replaces in one rename."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.engine.files import replacing


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes `path`.safetensors, with `about` as JSON in its header.

    A kill leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    with replacing(path.with_suffix(".safetensors")) as spare:
        save_file(stored, spare, metadata={"about": json.dumps(about)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save` wrote.  Raises BundleError if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    file = path.with_suffix(".safetensors")
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["about"])
        return load_file(file), about
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{file}: is not a checkpoint of mcdiff-batch ({error}); remove it, or use another "
            "folder"
        ) from error


def select_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without that prefix."""
    start = prefix + "."
    return {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": x for name, x in tensors.items()}
