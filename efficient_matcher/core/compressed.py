"""Model files whose weights are stored entropy-coded, turned back into the very bytes that were compressed.

A compressed file is the original with the numbers of its large tensors cut out: the rest (the graph), and of each
tensor where it belongs and its values in one of three forms, with or without the positions of its zeros. Numbers are
Huffman coded (zlib), the graph goes through lzma: both are Python's own, and together within 1 % of an arithmetic
coder. The SHA-256 of the original is in the file and is checked, so what runs is what was evaluated, bit by bit.

    b"EMPACK1\\n", uint32 n (little endian), header (n bytes, JSON through lzma), the coded streams one after the other

header: `sha256` and `bytes` of the original, `rest` (a stream), `tensors`: of each `at` (first byte in the original),
`dtype`, `count`, `form` (raw, half, codebook), `sparse`, and `streams` in the order `_tensor` reads them. A stream is
[bytes of content, bytes in the file, coder], the coder being "zlib" (raw deflate) or "lzma" (.xz without check). A
tensor that stands in a neighbouring file as well, as in another runtime's variant of a network, has `form` shared:
`like` is [name of that file, first byte in its original], and there are no streams.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import BundleError

MAGIC = b"EMPACK1\n"
GAP_GOES_ON = 255  # in a gap of zeros: add 255 and read on
_LIMIT = 1 << 31  # bytes of an original; protobuf, in which models are written, ends there too


def model_content(path: Path | str) -> str | bytes:
    """What a runtime opens: the path of an ordinary model, or the bytes of one that is stored compressed.

    Raises BundleError naming the file when it is compressed and damaged.
    """
    return restored(path) if is_compressed(path) else str(path)


def is_compressed(path: Path | str) -> bool:
    """Whether a file is one of ours; False where it cannot be read, which whoever opens it will say."""
    try:
        with open(path, "rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def restored(path: Path | str) -> bytes:
    """The original of a compressed file. Raises BundleError naming the file when it is damaged or cut short."""
    return _restored(Path(path), neighbours=True)


def _restored(path: Path, neighbours: bool) -> bytes:
    def neighbour(name: str) -> bytes:
        other = path.with_name(Path(name).name)
        if not neighbours:
            raise ValueError(f"{name} shares tensors in turn")
        return _restored(other, neighbours=False) if is_compressed(other) else other.read_bytes()

    try:
        return unpacked(path.read_bytes(), neighbour)
    except OSError as error:
        raise BundleError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from None


def _alone(name: str) -> bytes:
    raise ValueError(f"needs {name}")


def unpacked(data: bytes, neighbour: Callable[[str], bytes] = _alone) -> bytes:
    """The original of compressed `data`. Raises ValueError when it is not whole.

    neighbour: gives the original of a file it shares tensors with.
    """
    try:
        header, content = _split(data)
        original = _assembled(header, content, cache(neighbour))
        # Whatever the damage was, this finds it; all else only keeps damage from being a traceback.
        if hashlib.sha256(original).hexdigest() != header["sha256"]:
            raise ValueError("content differs from its SHA-256")
    except (ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, StopIteration,
            MemoryError, RecursionError, struct.error, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"compressed model is damaged or cut short: {error or type(error).__name__}") from None
    return original


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if data[:len(MAGIC)] != MAGIC:
        raise ValueError("does not begin as one")
    start = len(MAGIC) + 4
    (size,) = struct.unpack_from("<I", data, len(MAGIC))
    header = json.loads(lzma.LZMADecompressor().decompress(data[start:start + size], max_length=1 << 24))
    if not 0 <= header["bytes"] < _LIMIT:
        raise ValueError(f"claims {header['bytes']} bytes")
    return header, memoryview(data)[start + size:]


def _assembled(header: dict[str, Any], content: memoryview, neighbour: Callable[[str], bytes]) -> bytes:
    read = _reader(content, header["bytes"])
    rest = read(header["rest"])
    pieces, taken, end = [], 0, 0
    for entry in header["tensors"]:
        between = entry["at"] - end
        values = _shared(entry, neighbour) if entry["form"] == "shared" else _tensor(entry, read)
        pieces += [rest[taken:taken + between], values]
        taken, end = taken + between, entry["at"] + len(values)
    return b"".join([*pieces, rest[taken:]])


def _reader(content: memoryview, most: int) -> Callable[[list[Any]], bytes]:
    """Reads the next stream of at most `most` bytes."""
    position = 0

    def read(stream: list[Any]) -> bytes:
        nonlocal position
        size, stored, coder = stream
        if not 0 <= size <= most or position + stored > len(content):
            raise ValueError("a stream is too long")
        if not size:
            return b""
        decoder = zlib.decompressobj(-zlib.MAX_WBITS) if coder == "zlib" else lzma.LZMADecompressor()
        found = decoder.decompress(content[position:position + stored], size)
        if len(found) != size:
            raise ValueError("a stream ends early")
        position += stored
        return found

    return read


def _shared(entry: dict[str, Any], neighbour: Callable[[str], bytes]) -> bytes:
    name, start = entry["like"]
    size = entry["count"] * np.dtype(entry["dtype"]).itemsize
    values = neighbour(name)[start:start + size]
    if len(values) != size:
        raise ValueError(f"{name} is shorter than it was")
    return values


def _tensor(entry: dict[str, Any], read: Callable[[list[int]], bytes]) -> bytes:
    streams = iter(entry["streams"])
    dtype, count = np.dtype(entry["dtype"]), entry["count"]
    places = _places(read(next(streams))) if entry["sparse"] else None
    stored = count if places is None else len(places)
    if entry["form"] == "codebook":
        codebook = from_planes(read(next(streams)), dtype)
        values = codebook[_indices(read(next(streams)), len(codebook), stored)]
    else:
        kind = np.dtype("<f2") if entry["form"] == "half" else dtype
        values = from_planes(read(next(streams)), kind).astype(dtype)
    if len(values) != stored:
        raise ValueError("a tensor's parts disagree")
    if places is None:
        return values.tobytes()
    full = np.zeros(count, dtype)
    full[places] = values
    return full.tobytes()


def _indices(content: bytes, codes: int, count: int) -> NDArray[Any]:
    """`count` indices below `codes`; several share a byte where they fit, which Huffman codes better."""
    if codes > 256:
        return from_planes(content, np.dtype("<u2"))
    together, octets = per_byte(codes), np.frombuffer(content, np.uint8)
    shifts = np.arange(together, dtype=np.uint8) * np.uint8(8 // together)
    return (octets[:, None] >> shifts & np.uint8((1 << 8 // together) - 1)).reshape(-1)[:count]


def per_byte(codes: int) -> int:
    """How many indices below `codes` (at most 256) share a byte, the first in the lowest bits."""
    return 4 if codes <= 4 else 2 if codes <= 16 else 1


def _places(gaps: bytes) -> NDArray[np.intp]:
    """Where the non-zero values are; each gap is the number of zeros before one."""
    steps = np.frombuffer(gaps, np.uint8)
    ends = steps != GAP_GOES_ON
    passed = np.cumsum(steps, dtype=np.intp)[ends]
    return passed + np.arange(len(passed))


def to_planes(values: NDArray[Any]) -> bytes:
    """All first bytes of the values [n], then all second bytes .. : bytes of a kind code better side by side."""
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def from_planes(planes: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Inverse of `to_planes`: values [n]. Raises ValueError when the bytes are no whole number of values."""
    octets = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(octets.T).view(dtype).reshape(-1)
