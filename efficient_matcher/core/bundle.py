"""A model bundle on disk: the two networks and their card `model.yaml`, checked at load.

The matcher is one file `matcher.onnx` that runs as a whole, or its stages in a file each: `matcher_encode.onnx`,
`matcher_pair1.onnx`, `matcher_pair2.onnx` .. and `matcher_assign.onnx`. Beside `extractor.onnx` there may be the same
network as another runtime likes it, `extractor_openvino.onnx`; and `locator.onnx`, which places keypoints more exactly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from efficient_matcher.errors import BundleError
from efficient_matcher.records import READABLE_VERSIONS, ModelCard

CARD_NAME = "model.yaml"
EXTRACTOR_NAME = "extractor.onnx"
VARIANT_NAMES = {"openvino": "extractor_openvino.onnx"}  # extractors for one runtime, by its name
LOCATOR_NAME = "locator.onnx"
MATCHER_NAME = "matcher.onnx"
ENCODE_NAME, ASSIGN_NAME = "matcher_encode.onnx", "matcher_assign.onnx"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 2 ms in place of 18, where PyYAML has libyaml
SHIPPED = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose card and hashes were found right. `path` is the folder.

    matcher: one file for a matcher that runs as a whole, else its stages in the order they run.
    variants: files of the same extractor for single runtimes, by the runtime's name; all others take `extractor`.
    locator: None where the bundle has none.
    """

    card: ModelCard
    extractor: Path
    matcher: tuple[Path, ...]
    path: Path
    variants: Mapping[str, Path] = field(default_factory=dict)
    locator: Path | None = None


def pair_name(pair: int) -> str:
    """The file of the matcher's layer pair 1, 2 .."""
    return f"matcher_pair{pair}.onnx"


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Find and verify a bundle: the name of one that ships, or a path to a folder.

    Raises BundleError naming file and field: not found, no card, unknown format version, a missing, unknown or
    ill-typed field, a file that is missing or whose SHA-256 is not the card's.
    """
    folder = _find(name_or_path)
    card = read_card(folder)
    for name, digest in card.files.items():
        _verify(folder / name, digest)
    variants = {kind: folder / name for kind, name in VARIANT_NAMES.items() if name in card.files}
    matcher = tuple(folder / name for name in matcher_files(card.files))
    locator = folder / LOCATOR_NAME if LOCATOR_NAME in card.files else None
    return Bundle(card, folder / EXTRACTOR_NAME, matcher, folder, variants, locator)


def matcher_files(files: Collection[str]) -> tuple[str, ...]:
    """Which of a bundle's files are the matcher, in the order they run; none when it is not complete."""
    if MATCHER_NAME in files:
        return (MATCHER_NAME,)
    pairs = sum(pair_name(pair) in files for pair in range(1, len(files) + 1))
    stages = (ENCODE_NAME, *(pair_name(pair) for pair in range(1, pairs + 1)), ASSIGN_NAME)
    return stages if pairs and set(stages) <= set(files) else ()


def read_card(folder: Path) -> ModelCard:
    """The card of a bundle folder, every field checked; the files it lists are not looked at.

    Raises BundleError naming file and field.
    """
    path = Path(folder) / CARD_NAME
    tree = _read_yaml(path)
    # Before anything else: the fields of another version are not ours to judge.
    version = tree.get("format_version")
    if version is None:
        raise BundleError(f"{path}: field 'format_version' is missing")
    if version not in READABLE_VERSIONS or type(version) is not int:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise BundleError(f"{path}: format_version is {version!r}, this program reads {known}")
    names = [entry.name for entry in fields(ModelCard)]
    for name in names:
        if name not in tree:
            raise BundleError(f"{path}: field '{name}' is missing")
        if not _CHECKS[name](tree[name]):
            raise BundleError(f"{path}: field '{name}' has a wrong value {_short(tree[name])}")
    for name in tree:
        if name not in names:
            raise BundleError(f"{path}: unknown field '{name}'")
    return ModelCard(**{**tree, "input_size": tuple(tree["input_size"])})


def write_card(folder: str | Path, card: ModelCard) -> Path:
    """Write `card` as `model.yaml` into the bundle folder, in one step; returns its path.

    Values must be plain (numbers, strings, lists, mappings); anything else raises BundleError naming the file.
    """
    path = Path(folder) / CARD_NAME
    try:
        text = yaml.safe_dump({**asdict(card), "input_size": list(card.input_size)}, sort_keys=False)
    except yaml.YAMLError as error:
        raise BundleError(f"{path}: a value is not plain: {_short(error)}") from None
    part = path.with_name(f".{CARD_NAME}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD_NAME}"))


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    # A bare name means a shipped bundle even where a folder of that name lies about; ./name means the folder.
    if text in shipped_bundles():
        return SHIPPED / text
    path = Path(name_or_path)
    with suppress(RuntimeError):  # a home of nobody's
        path = path.expanduser()
    if path.is_dir():
        return path
    known = ", ".join(shipped_bundles()) or "none"
    raise BundleError(f"{text}: no such bundle: not a folder, nor one that ships ({known})")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is not YAML: {_short(error)}") from None
    if not isinstance(tree, dict):
        raise BundleError(f"{path}: is not a model card (a mapping of fields)")
    return tree


def _verify(path: Path, digest: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    if found != digest.lower():
        raise BundleError(f"{path}: SHA-256 is {found[:12]}..., the card's field files says {digest[:12]}...; "
                          "the file was altered or cut short")


def _short(value: object) -> str:
    return " ".join(str(value).split())[:80] if isinstance(value, Exception) else repr(value)[:80]


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_count(entry) for entry in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_files(value: Any) -> bool:
    # Plain names only: a card must not reach outside its folder.
    return (_is_mapping(value) and EXTRACTOR_NAME in value and bool(matcher_files(value))
            and all(isinstance(digest, str) and len(digest) == 64 for digest in value.values())
            and all(Path(name).name == name and name not in ("", "..") for name in value))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "format_version": _is_count, "name": _is_text, "extractor": _is_mapping, "matcher": _is_mapping,
    "input_size": _is_size, "max_keypoints": _is_count, "preprocessing": _is_mapping, "files": _is_files,
    "licence": _is_text, "training": _is_mapping, "measured": _is_mapping,
}
