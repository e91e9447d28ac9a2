"""Compressing a bundle's model files without changing a bit of what they give back: see `core.compressed`.

What makes files small is done before, by pruning, codebooks or integer weights; here each tensor is given the form
that suits its values, and every file is restored once and compared before it is kept.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from efficient_matcher.core.bundle import file_sha256, load_bundle, write_card
from efficient_matcher.core.compressed import GAP_GOES_ON, MAGIC, is_compressed, per_byte, restored, to_planes, unpacked
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_bytes_atomic
from efficient_matcher.learn.bundle_folder import check_free, replace_bundle
from efficient_matcher.records import ModelCard

SMALL = 256  # bytes; smaller tensors stay where they are
SPARSE_FROM = 0.2  # share of zeros from which their positions are stored; below, zero is a value as any other
CODEBOOK_UP_TO = 1 << 16
DTYPES = {onnx.TensorProto.FLOAT: "<f4", onnx.TensorProto.FLOAT16: "<f2", onnx.TensorProto.INT8: "|i1",
          onnx.TensorProto.UINT8: "|u1", onnx.TensorProto.INT32: "<i4", onnx.TensorProto.DOUBLE: "<f8"}


@dataclass
class _Coded:
    """A file in the making: tensors as the header lists them, and the streams in order."""

    tensors: list[dict[str, Any]] = field(default_factory=list)
    streams: list[bytes] = field(default_factory=list)

    def add(self, content: bytes, coder: str = "zlib") -> list[Any]:
        """Code a stream; returns its entry in the header."""
        coded = (huffman(content) if coder == "zlib" else _xz(content)) if content else b""
        self.streams.append(coded)
        return [len(content), len(coded), coder]


def packed(model: bytes, like: tuple[str, bytes] | None = None) -> bytes:
    """A serialised ONNX model compressed so that `core.compressed.unpacked` gives it back exactly.

    like: name and content of a model that will lie beside it and whose tensors it need not hold again. Raises
    MatcherError when it is no model, or in the event that it would not come back as it was.
    """
    known = {raw: at for at, raw, _ in _holes(like[1])} if like else {}
    holes = list(_holes(model))
    ends = [0, *(at + len(raw) for at, raw, _ in holes)]
    starts = [*(at for at, _, _ in holes), len(model)]
    rest = b"".join(model[end:start] for end, start in zip(ends, starts))
    coded = _Coded()
    rest_stream = coded.add(rest, "lzma")
    for at, raw, dtype in holes:
        values = np.frombuffer(raw, dtype)
        shared = like and raw in known and {"dtype": dtype, "count": len(values), "form": "shared",
                                            "like": [like[0], known[raw]]}
        coded.tensors.append({"at": at, **(shared or _coded_tensor(coded, values))})
    header = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model), "rest": rest_stream,
              "tensors": coded.tensors}
    head = _xz(json.dumps(header, separators=(",", ":")).encode())
    data = b"".join([MAGIC, struct.pack("<I", len(head)), head, *coded.streams])
    if unpacked(data, lambda name: like[1] if like else b"") != model:
        raise MatcherError("a compressed model did not come back as it was; please report this")
    return data


def huffman(content: bytes) -> bytes:
    """A raw deflate stream: plain Huffman codes, or with repetitions where that is shorter, as among equal weights."""
    def deflated(strategy: int) -> bytes:
        coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        return coder.compress(content) + coder.flush()
    return min(deflated(zlib.Z_HUFFMAN_ONLY), deflated(zlib.Z_DEFAULT_STRATEGY), key=len)


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=9, check=lzma.CHECK_NONE)


def pack_bundle(source: Path | str, out: Path | str, told: Callable[[ModelCard], ModelCard] | None = None) -> ModelCard:
    """Write a bundle with its model files compressed, in one step; a bundle at `out`, even `source`, is replaced.

    told: what to say in the card beside the new hashes. Returns the new card. Raises MatcherError.
    """
    return _rewritten(Path(source), Path(out), _packed_file, told or (lambda card: card))


def unpack_bundle(source: Path | str, out: Path | str) -> ModelCard:
    """Inverse of `pack_bundle`: ordinary ONNX files, for other programs to open."""
    return _rewritten(Path(source), Path(out), restored, lambda card: card)


def stored_bytes(folder: Path | str) -> int:
    """Bytes on disk of a bundle: all files of its card, and the card."""
    bundle = load_bundle(folder)
    return sum((bundle.path / name).stat().st_size for name in (*bundle.card.files, "model.yaml"))


def _packed_file(path: Path) -> bytes:
    """A variant of a network for another runtime, FILE_RUNTIME.onnx, shares what it can with FILE.onnx."""
    main = path.with_name(path.stem.rsplit("_", 1)[0] + path.suffix)
    try:
        if main == path or not main.is_file():
            return packed(path.read_bytes())
        return packed(path.read_bytes(), (main.name, restored(main) if is_compressed(main) else main.read_bytes()))
    except MatcherError as error:
        raise MatcherError(f"{path}: {error}") from None


def _rewritten(source: Path, out: Path, change: Callable[[Path], bytes],
               told: Callable[[ModelCard], ModelCard]) -> ModelCard:
    """The bundle `source` at `out`, `change` giving the new bytes of each file that is of the other kind."""
    bundle = load_bundle(source)
    check_free(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        for name in bundle.card.files:
            path, wanted = bundle.path / name, change is restored
            same = path.suffix != ".onnx" or is_compressed(path) != wanted
            write_bytes_atomic(partial / name, path.read_bytes() if same else change(path))
        files = {name: file_sha256(partial / name) for name in bundle.card.files}
        card = replace(told(bundle.card), files=files)
        write_card(partial, card)
        load_bundle(partial)
        replace_bundle(out, partial)
    except OSError as error:
        raise MatcherError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def _holes(model: bytes) -> Iterator[tuple[int, bytes, str]]:
    """First byte, content and dtype of each large tensor, in the order of the file."""
    try:
        tensors = onnx.load_from_string(model).graph.initializer
    except Exception as error:  # noqa: BLE001 - protobuf's own error class moved between its versions
        raise MatcherError(f"is not an ONNX model: {' '.join(str(error).split())[:100]}") from None
    position = 0
    for tensor in tensors:
        raw, dtype = tensor.raw_data, DTYPES.get(tensor.data_type)
        if len(raw) < SMALL or dtype is None:
            continue
        # Protobuf keeps the order. An earlier place with the same bytes would serve as well: they are the same.
        at = model.find(raw, position)
        if at >= 0:
            yield at, raw, dtype
            position = at + len(raw)


def _coded_tensor(coded: _Coded, values: NDArray[Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": values.dtype.str, "count": len(values), "sparse": False, "streams": []}
    bits = values.view(f"u{values.itemsize}")  # as bits: -0.0 is not 0.0, and NaN equals itself
    zero = bits == 0
    if zero.mean() >= SPARSE_FROM:
        entry["sparse"] = True
        entry["streams"].append(coded.add(_gaps(np.flatnonzero(~zero))))
        values, bits = values[~zero], bits[~zero]
    known, indices = np.unique(bits, return_inverse=True)
    entry["form"], contents = _form(values, known, indices.reshape(-1))
    entry["streams"] += [coded.add(content) for content in contents]
    return entry


def _form(values: NDArray[Any], known: NDArray[Any], indices: NDArray[np.intp]) -> tuple[str, list[bytes]]:
    """Name of the form and contents of its streams."""
    if values.itemsize > 1 and len(known) <= min(CODEBOOK_UP_TO, len(values) // 2):
        codebook = known.view(values.dtype)
        order = np.argsort(codebook, kind="stable")  # neighbours in value, which are alike in frequency
        rank = np.empty(len(order), np.intp)
        rank[order] = np.arange(len(order))
        return "codebook", [to_planes(np.ascontiguousarray(codebook[order])), _indices(rank[indices], len(known))]
    if values.dtype == np.float32:
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if np.array_equal(half.astype("<f4").view("u4"), values.view("u4")):
            return "half", [to_planes(half)]
    return "raw", [to_planes(np.ascontiguousarray(values))]


def _indices(indices: NDArray[np.intp], codes: int) -> bytes:
    if codes > 256:
        return to_planes(indices.astype("<u2"))
    together = per_byte(codes)
    padded = np.append(indices, np.zeros(-len(indices) % together, np.intp)).reshape(-1, together)
    return (padded << np.arange(together) * (8 // together)).sum(axis=1).astype(np.uint8).tobytes()


def _gaps(places: NDArray[np.intp]) -> bytes:
    """Zeros before each non-zero value, in bytes; 255 stands for 255 and more to come."""
    gaps = np.diff(places, prepend=-1) - 1
    long, short = np.divmod(gaps, GAP_GOES_ON)
    coded = np.full(int((long + 1).sum()), GAP_GOES_ON, np.uint8)
    coded[np.cumsum(long + 1) - 1] = short
    return coded.tobytes()
