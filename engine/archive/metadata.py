"""Parses the metadata of zarr arrays, v2 and v3.  Refuses what the engine cannot read."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mcdiff_batch.engine.files import Json

from .codec_metadata import (
    parse_codecs,
    parse_codecs_v2,
    parse_dtype_v2,
    parse_endian,
    parse_extension,
)
from .codecs import Codec
from .store import BadMetadataError, Store

CHUNK_LIMIT = 1 << 30  # bytes, decoded
INDEX_LIMIT = 1 << 22  # chunks of a shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Layout of a shard file: its shape, and how its index is stored."""

    shape: tuple[int, ...]
    at_end: bool  # where the index is
    endian: str  # "<" or ">", of the index
    checksum: bool  # whether the index has a CRC-32C


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """An array: its shape, its chunks, and how their bytes are stored."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]  # as stored, with its byte order; object: UTF-8 text of any length
    axes: tuple[int, ...]  # stored axis k is array axis axes[k]
    codecs: tuple[Codec, ...]
    prefix: str  # of chunk keys: "c" or ""
    separator: str
    fill: Any  # as in the metadata
    shards: Shards | None = None

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of one file: a shard or a chunk."""
        return self.shards.shape if self.shards else self.chunks

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk; for text, the most that is read."""
        return CHUNK_LIMIT // 16 if self.dtype == object else prod(self.chunks) * self.itemsize

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def notices_damage(self) -> bool:
        return any(x.notices_damage for x in self.codecs)

    def key(self, coordinates: Iterable[int]) -> str:
        """Path of a chunk or shard in the array's folder."""
        parts = ([self.prefix] if self.prefix else []) + [str(k) for k in coordinates]
        return self.separator.join(parts) or "0"


class ArrayMetadata(NamedTuple):
    """The metadata of an array: as bytes and parsed, its attributes, and the names of its axes."""

    document: bytes
    spec: ArraySpec
    attributes: Json
    dimensions: tuple[str | None, ...]  # names of its axes; empty: none are given


def read_array_spec(store: Store, name: str) -> ArrayMetadata | None:
    """The metadata of an array; None if there is no such array.

    Raises BadMetadataError, OSError.
    """
    for file, reader in (("zarr.json", parse_v3), (".zarray", parse_v2)):
        document = store.document(f"{name}/{file}")
        if document is not None:
            try:
                spec = reader(document[1])
                return ArrayMetadata(document[0], spec, *_read_attributes(store, name, document[1]))
            except (KeyError, TypeError) as error:
                raise BadMetadataError(f"{name}/{file}: {error} is missing or wrong") from error
            except BadMetadataError as error:
                raise BadMetadataError(f"{name}: {error}") from error
    return None


def _read_attributes(store: Store, name: str, raw: Json) -> tuple[Json, tuple[str | None, ...]]:
    """Attributes, and the names of the axes: those of zarr v3, or those that xarray writes."""
    if raw["zarr_format"] == 3:
        attributes = raw.get("attributes") or {}
    else:
        document = store.document(f"{name}/.zattrs")
        attributes = document[1] if document else {}
    if not isinstance(attributes, dict):
        raise BadMetadataError("attributes are not an object")
    own, xarray = raw.get("dimension_names"), attributes.get("_ARRAY_DIMENSIONS")
    names = own or xarray or []
    if own and xarray and own != xarray:
        raise BadMetadataError(
            f"dimension_names are {own!r:.80}, _ARRAY_DIMENSIONS {xarray!r:.80}; correct one"
        )
    if not isinstance(names, list) or not all(isinstance(x, str | None) for x in names):
        raise BadMetadataError(f"dimension names are {names!r:.80}, expected a list of names")
    return attributes, tuple(names)


def parse_v3(raw: Json) -> ArraySpec:
    """Parses `zarr.json` of an array.  Raises BadMetadataError, KeyError, TypeError."""
    _expect(raw, "zarr_format", 3)
    _expect(raw, "node_type", "array")
    _check_extensions(raw)
    grid_name, grid = parse_extension(raw["chunk_grid"])
    if grid_name != "regular":
        raise BadMetadataError(f"chunk grid is {grid_name!r:.40}, expected 'regular'")
    shape, files = _parse_counts(raw, "shape", least=0), _parse_counts(grid, "chunk_shape")
    codecs = [parse_extension(x) for x in raw["codecs"]]
    shards, chunks = None, files
    if codecs and codecs[0][0] == "sharding_indexed":
        shards, chunks, codecs = _parse_sharding(codecs, files)
    prefix, separator = _parse_key_encoding(raw)
    dtype, axes, byte_codecs = parse_codecs(codecs, raw["data_type"], len(chunks))
    return _check(
        ArraySpec(
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            axes=axes,
            codecs=byte_codecs,
            prefix=prefix,
            separator=separator,
            fill=raw.get("fill_value"),
            shards=shards,
        )
    )


def parse_v2(raw: Json) -> ArraySpec:
    """Parses `.zarray`.  Raises BadMetadataError, KeyError, TypeError."""
    _expect(raw, "zarr_format", 2)
    separator = raw.get("dimension_separator", ".")
    if separator not in (".", "/") or raw["order"] not in ("C", "F"):
        raise BadMetadataError("dimension_separator or order is unknown")
    shape, chunks = _parse_counts(raw, "shape", least=0), _parse_counts(raw, "chunks")
    axes, dtype = tuple(range(len(shape))), parse_dtype_v2(raw["dtype"])
    return _check(
        ArraySpec(
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            axes=axes if raw["order"] == "C" else axes[::-1],
            codecs=parse_codecs_v2(raw, dtype),
            prefix="",
            separator=separator,
            fill=raw.get("fill_value"),
        )
    )


def _check(spec: ArraySpec) -> ArraySpec:
    ranks = {len(spec.shape), len(spec.chunks), len(spec.files), len(spec.axes)}
    if len(ranks) != 1:
        raise BadMetadataError(f"shape is {spec.shape}, chunks are {spec.chunks}: ranks differ")
    if spec.chunk_bytes > CHUNK_LIMIT:
        raise BadMetadataError(
            f"a chunk of {spec.chunks} takes {spec.chunk_bytes} bytes, the limit is {CHUNK_LIMIT}; "
            "rechunk it to one case per chunk"
        )
    return spec


def _expect(raw: Json, field: str, value: object) -> None:
    if raw.get(field) != value:
        raise BadMetadataError(f"{field} is {raw.get(field)!r:.40}, expected {value!r}")


FIELDS_V3 = {
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding"),
    *("fill_value", "codecs", "attributes", "storage_transformers", "dimension_names"),
}


def _check_extensions(raw: Json) -> None:
    if raw.get("storage_transformers"):
        raise BadMetadataError("has storage transformers, expected none")
    for name in raw.keys() - FIELDS_V3:
        if not isinstance(raw[name], dict) or raw[name].get("must_understand", True):
            raise BadMetadataError(f"has an unknown extension {name!r:.40}")


def _parse_counts(raw: Json, field: str, least: int = 1) -> tuple[int, ...]:
    values = raw[field]
    whole = isinstance(values, list) and all(type(x) is int and x >= least for x in values)
    if not whole or len(values) > 8:
        raise BadMetadataError(f"{field} is {values!r:.80}, expected whole numbers from {least} up")
    return tuple(values)


def _parse_key_encoding(raw: Json) -> tuple[str, str]:
    name, configuration = parse_extension(raw["chunk_key_encoding"])
    defaults = {"default": ("c", "/"), "v2": ("", ".")}
    if name not in defaults:
        raise BadMetadataError(f"chunk key encoding is {name!r:.40}, expected default or v2")
    separator = configuration.get("separator", defaults[name][1])
    if separator not in (".", "/"):
        raise BadMetadataError("chunk key separator is unknown, expected '.' or '/'")
    return defaults[name][0], separator


def _parse_sharding(
    codecs: list[tuple[str, Json]], shape: tuple[int, ...]
) -> tuple[Shards, tuple[int, ...], list[tuple[str, Json]]]:
    """Layout, chunk shape and codecs of shards of `shape`."""
    if len(codecs) != 1:
        raise BadMetadataError("has codecs beside sharding_indexed, expected none")
    raw = codecs[0][1]
    inner = _parse_counts(raw, "chunk_shape")
    whole = len(inner) == len(shape) and all(n % k == 0 for n, k in zip(shape, inner, strict=True))
    if not whole or prod(shape) // prod(inner) > INDEX_LIMIT:
        raise BadMetadataError(f"shards of {shape} do not have a whole number of chunks of {inner}")
    endian, checksum = _parse_index_codecs([parse_extension(x) for x in raw["index_codecs"]])
    location = raw.get("index_location", "end")
    if location not in ("start", "end"):
        raise BadMetadataError("index_location is unknown, expected start or end")
    shards = Shards(shape=shape, at_end=location == "end", endian=endian, checksum=checksum)
    return shards, inner, [parse_extension(x) for x in raw["codecs"]]


def _parse_index_codecs(codecs: list[tuple[str, Json]]) -> tuple[str, bool]:
    names = [name for name, _ in codecs]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise BadMetadataError(f"index codecs are {names!r:.80}, expected bytes and crc32c")
    return parse_endian(codecs[0][1]), "crc32c" in names
