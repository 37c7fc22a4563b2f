"""Parses the codecs and data types in zarr metadata."""

from typing import Any

import numpy as np

from mcdiff_batch.engine.files import Json

from .codecs import CHECKSUMS, COMPRESSORS, Codec
from .store import BadMetadataError

KINDS = {"int": "i", "uint": "u", "float": "f"}
PREFIX = "numcodecs."  # of codecs in v3 that zarr takes from numcodecs
LOSSY = ("bitround", "quantize")  # act when written; nothing is to be undone
CODECS_LIMIT = 6
REWRITE = "write the archive again with zarr, with the command in `mcdiff-batch check --help`"


def parse_codecs(
    codecs: list[tuple[str, Json]], data_type: object, rank: int
) -> tuple[np.dtype[Any], tuple[int, ...], tuple[Codec, ...]]:
    """Dtype, axes and byte codecs from an array's codecs, which are given as name, configuration.

    The only order allowed: transposes, filters, then bytes or vlen-utf8, then byte codecs.
    """
    axes = tuple(range(rank))
    while codecs and codecs[0][0] == "transpose":
        order, codecs = _parse_order(codecs[0][1], rank), codecs[1:]
        axes = tuple(axes[k] for k in order)
    text = data_type in ("string", "variable_length_utf8")
    expected = "vlen-utf8" if text else "bytes"
    names = [name for name, _ in codecs]
    if expected not in names:
        raise BadMetadataError(f"has codecs {names!r:.80}, expected {expected!r}; {REWRITE}")
    at = names.index(expected)
    dtype = _parse_dtype_v3(data_type, parse_endian(codecs[at][1]))
    filters = [_parse_filter(*x, dtype) for x in codecs[:at]]
    return dtype, axes, _check_codecs([*filters, *(parse_codec(*x) for x in codecs[at + 1 :])])


def _parse_filter(name: str, configuration: Json, dtype: np.dtype[Any]) -> Codec | None:
    """A codec that stands before the values become bytes; None if nothing is to be undone."""
    name = name.removeprefix(PREFIX)
    if name not in (*LOSSY, "delta") or dtype.kind not in "iuf":
        raise BadMetadataError(f"filter {name!r:.40} is not supported, expected none; {REWRITE}")
    types = [] if name == "bitround" else [configuration["dtype"]]
    types.append(configuration.get("astype", dtype.str))
    if any(_numpy(str(x)).newbyteorder("=") != dtype.newbyteorder("=") for x in types):
        raise BadMetadataError(f"filter {name!r} changes the dtype, expected none; {REWRITE}")
    return None if name in LOSSY else Codec(name=name, option=dtype.str)


def _parse_order(configuration: Json, rank: int) -> tuple[int, ...]:
    order = configuration.get("order")
    letters = {"C": list(range(rank)), "F": list(range(rank))[::-1]}
    order = letters[order] if isinstance(order, str) and order in letters else order
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(rank))):
        raise BadMetadataError(f"transpose order is {order!r:.80}, expected a permutation")
    return tuple(int(k) for k in order)


def parse_codec(name: str, configuration: Json) -> Codec:
    """A codec from bytes to bytes."""
    stored, name = name, name.removeprefix(PREFIX)
    match name:
        case "shuffle":
            size = configuration.get("elementsize", 4)
            if type(size) is int and 1 <= size <= 256:
                return Codec(name=name, option=str(size))
        case "lzma":
            if configuration.get("format", 1) == 1 and configuration.get("filters") is None:
                return Codec(name=name, checksum=configuration.get("check", -1) != 0)
        case "crc32c" | "crc32" | "adler32":
            place = configuration.get("location") or ("end" if name == "crc32c" else "start")
            if place in ("start", "end"):
                return Codec(name=name, option=place)
        case _ if name in COMPRESSORS:
            checked = name == "zstd" and configuration.get("checksum") is True
            return Codec(name=name, checksum=checked)
    raise BadMetadataError(
        f"codec {stored!r:.40} is not supported as it is set, expected one such as zstd; {REWRITE}"
    )


def _check_codecs(codecs: list[Codec | None]) -> tuple[Codec, ...]:
    present = tuple(x for x in codecs if x is not None)
    if sum(x.name in COMPRESSORS for x in present) > 1 or len(present) > CODECS_LIMIT:
        raise BadMetadataError(f"is compressed more than once, expected at most once; {REWRITE}")
    return present


def parse_codecs_v2(raw: Json, dtype: np.dtype[Any]) -> tuple[Codec, ...]:
    """Filters and compressor of an array of v2, in the order of writing."""
    filters = [_split_id(x) for x in raw.get("filters") or []]
    if "pickle" in (name for name, _ in filters):  # nobody should decode these (P11)
        raise BadMetadataError(
            "has a filter 'pickle', whose values could execute code, expected text or numbers with "
            "usual filters; ask for the archive again without it"
        )
    if dtype.kind == "O":
        if not filters or filters[0][0] != "vlen-utf8":
            names = [name for name, _ in filters]
            raise BadMetadataError(
                f"dtype is '|O' with filters {names!r:.80}, expected text by vlen-utf8; {REWRITE}"
            )
        filters = filters[1:]
    codecs = [_parse_v2_filter(*x, dtype) for x in filters]
    compressor = raw.get("compressor")
    if compressor is not None:
        codecs.append(parse_codec(*_split_id(compressor)))
    return _check_codecs(codecs)


def _parse_v2_filter(name: str, configuration: Json, dtype: np.dtype[Any]) -> Codec | None:
    if name in ("shuffle", *CHECKSUMS):
        return parse_codec(name, configuration)
    return _parse_filter(name, configuration, dtype)


def _split_id(raw: object) -> tuple[str, Json]:
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
        raise BadMetadataError(
            f"a compressor or filter is {raw!r:.40}, expected an object with an id"
        )
    return raw["id"], raw


def parse_dtype_v2(raw: object) -> np.dtype[Any]:
    """Numbers, booleans and text; no other objects, no structures."""
    if raw == "|O":
        return np.dtype(object)
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
    if word == "ascii" and bits:
        return _numpy(f"S{int(bits)}")
    if word not in KINDS or bits not in ("8", "16", "32", "64"):
        raise BadMetadataError(f"data type is {name!r:.40}, expected a plain one such as 'uint8'")
    return _numpy(f"{endian}{KINDS[word]}{int(bits) // 8}")


def _parse_fixed_text(raw: object) -> str:
    """ "utf12" for fixed-length text of 12 characters, "ascii12" for 12 bytes."""
    name, configuration = parse_extension(raw)
    size = configuration.get("length_bytes")
    widths = {"fixed_length_utf32": ("utf", 4), "null_terminated_bytes": ("ascii", 1)}
    word, width = widths.get(name, ("", 1))
    if not word or type(size) is not int or not width <= size <= 1 << 16:
        raise BadMetadataError(f"data type is {name!r:.40}, expected a plain one such as 'uint8'")
    return f"{word}{size // width}"


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
