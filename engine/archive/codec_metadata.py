"""Parses the codecs and data types in zarr metadata."""

from typing import Any

import numpy as np

from .codecs import COMPRESSORS, Codec
from .store import BadMetadataError

Json = dict[str, Any]
KINDS = {"int": "i", "uint": "u", "float": "f"}


def parse_codecs(
    codecs: list[tuple[str, Json]], data_type: object, rank: int
) -> tuple[np.dtype[Any], tuple[int, ...], tuple[Codec, ...]]:
    """Dtype, axes and byte codecs from an array's codecs, which are given as name, configuration.

    The only order allowed: transposes, then bytes or vlen-utf8, then byte codecs.
    """
    axes = tuple(range(rank))
    while codecs and codecs[0][0] == "transpose":
        order, codecs = _parse_order(codecs[0][1], rank), codecs[1:]
        axes = tuple(axes[k] for k in order)
    serializer, configuration = codecs[0] if codecs else ("", {})
    expected = "vlen-utf8" if data_type in ("string", "variable_length_utf8") else "bytes"
    if serializer != expected:
        raise BadMetadataError(f"codec {serializer!r:.40} is not supported, expected {expected!r}")
    dtype = _parse_dtype_v3(data_type, parse_endian(configuration))
    return dtype, axes, _check_codecs([_parse_codec(*x) for x in codecs[1:]])


def _parse_order(configuration: Json, rank: int) -> tuple[int, ...]:
    order = configuration.get("order")
    letters = {"C": list(range(rank)), "F": list(range(rank))[::-1]}
    order = letters[order] if isinstance(order, str) and order in letters else order
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(rank))):
        raise BadMetadataError(f"transpose order is {order!r:.80}, expected a permutation")
    return tuple(int(k) for k in order)


def _parse_codec(name: str, configuration: Json) -> Codec:
    if name not in (*COMPRESSORS, "crc32c"):
        raise BadMetadataError(
            f"codec {name!r:.40} is not supported, expected zstd, gzip, blosc, crc32c or none"
        )
    checksum = name == "zstd" and configuration.get("checksum") is True
    return Codec(name=name, checksum=checksum)


def _check_codecs(codecs: list[Codec]) -> tuple[Codec, ...]:
    if sum(x.name in COMPRESSORS for x in codecs) > 1 or len(codecs) > 4:
        raise BadMetadataError("is compressed more than once, expected at most once")
    return tuple(codecs)


def parse_compressor_v2(raw: object) -> tuple[Codec, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, dict) or raw.get("id") not in COMPRESSORS:
        found = raw.get("id") if isinstance(raw, dict) else raw
        raise BadMetadataError(
            f"compressor {found!r:.40} is not supported, expected zstd, gzip, blosc or none"
        )
    return (_parse_codec(raw["id"], raw),)


def parse_dtype_v2(raw: object) -> np.dtype[Any]:
    """Numbers, booleans and text of fixed length; no objects, no structures."""
    plain = isinstance(raw, str) and len(raw) <= 8 and raw[:1] in "<>|" and raw[1:2] in "biufUS"
    if not plain or not str(raw)[2:].isascii() or not str(raw)[2:].isdigit():
        raise BadMetadataError(f"dtype is {raw!r:.40}, expected a plain one such as '|u1'")
    return _numpy(str(raw))


def _parse_dtype_v3(raw: object, endian: str) -> np.dtype[Any]:
    if raw in ("string", "variable_length_utf8"):
        return np.dtype(object)
    if raw == "bool":
        return np.dtype(bool)
    name = raw if isinstance(raw, str) else _parse_fixed_text(raw)
    word, bits = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    if word == "utf" and bits:
        return _numpy(f"{endian}U{int(bits)}")
    if word not in KINDS or bits not in ("8", "16", "32", "64"):
        raise BadMetadataError(f"data type is {name!r:.40}, expected a plain one such as 'uint8'")
    return _numpy(f"{endian}{KINDS[word]}{int(bits) // 8}")


def _parse_fixed_text(raw: object) -> str:
    """ "utf12" for fixed-length text of 12 characters."""
    name, configuration = parse_extension(raw)
    size = configuration.get("length_bytes")
    if name != "fixed_length_utf32" or type(size) is not int or not 4 <= size <= 1 << 16:
        raise BadMetadataError(f"data type is {name!r:.40}, expected a plain one such as 'uint8'")
    return f"utf{size // 4}"


def _numpy(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except (TypeError, ValueError) as error:
        raise BadMetadataError(f"dtype is {name!r:.40}, expected a plain one") from error


def parse_endian(configuration: Json) -> str:
    value = configuration.get("endian", "little")
    if value not in ("little", "big"):
        raise BadMetadataError("endian is unknown, expected little or big")
    return "<" if value == "little" else ">"


def parse_extension(raw: object) -> tuple[str, Json]:
    """Name and configuration of a codec or another extension point."""
    if isinstance(raw, str):
        return raw, {}
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise BadMetadataError("an extension point has no name")
    configuration = raw.get("configuration") or {}
    if not isinstance(configuration, dict):
        raise BadMetadataError(f"the configuration of {raw['name']!r:.40} is not an object")
    return raw["name"], configuration
