"""Weight files: our own (safetensors, which say what they hold) and the official checkpoints (pickle).

A safetensors file's metadata hold `architecture`, `config` (the sizes) and `notes` (licence, training) as
JSON. A `.pth` file has no such thing: it is the published network unless a config is given, and is read
with `weights_only=True`, so that it cannot run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficient_matcher.errors import MatcherError
from efficient_matcher.files import plain, write_bytes_atomic
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig

NETWORKS: dict[str, tuple[type, type]] = {"superpoint": (SuperPoint, SuperPointConfig),
                                          "superglue": (SuperGlue, SuperGlueConfig)}
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training scripts nest a state dict
PARALLEL = "module."  # what DataParallel puts before every key
SAFETENSORS, PICKLES = (".safetensors",), (".pth", ".pt")


class WeightsError(MatcherError):
    """A weight file that is missing, cut short, or of another network; names file and key."""


@dataclass(frozen=True)
class WeightFile:
    """What a file holds: tensors by key; architecture and config are None where it does not say."""

    tensors: dict[str, Tensor]
    architecture: str | None = None
    config: dict[str, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def save_weights(path: Path | str, network: SuperPoint | SuperGlue, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network as safetensors, in one step.

    notes: what else to keep, as JSON values: `licence` and `training` find their way into model cards.
    Raises MatcherError when the file cannot be written.
    """
    from safetensors.torch import save
    metadata = {"architecture": _architecture(network), "config": json.dumps(network.config.to_dict()),
                "notes": json.dumps(plain(dict(notes or {})))}
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    write_bytes_atomic(path, save(tensors, metadata))


def take_what_fits(network: nn.Module, other: nn.Module) -> None:
    """Give a network what another has under the same name and in the same shape; the rest stays as it is."""
    own = network.state_dict()
    network.load_state_dict({name: value for name, value in other.state_dict().items()
                             if name in own and value.shape == own[name].shape}, strict=False)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_superpoint(path: Path | str, config: SuperPointConfig | None = None) -> SuperPoint:
    """A SuperPoint in evaluation mode from `.safetensors`, or from an official `.pth` (of sizes `config`).

    Raises WeightsError naming the file and the first key that is wrong.
    """
    return _load(Path(path), "superpoint", config)


def load_superglue(path: Path | str, config: SuperGlueConfig | None = None) -> SuperGlue:
    """A SuperGlue in evaluation mode from `.safetensors`, or from an official `.pth` (of sizes `config`).

    Raises WeightsError naming the file and the first key that is wrong.
    """
    return _load(Path(path), "superglue", config)


def read_weights(path: Path | str) -> WeightFile:
    """The contents of a weight file, not yet held against a network. Raises WeightsError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix in SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return WeightFile(_read_pickle(path))
    raise WeightsError(f"{path}: unknown kind of weight file, known: {', '.join(SAFETENSORS + PICKLES)}")


def _load(path: Path, architecture: str, config: Any) -> Any:
    file = read_weights(path)
    found = file.architecture or _guess(file.tensors)
    if found not in (None, architecture):
        raise WeightsError(f"{path}: holds a {found}, not a {architecture}")
    network_class, config_class = NETWORKS[architecture]
    if file.config is not None:
        config = _config(path, config_class, file.config)
    try:
        network = network_class(config)
    except ValueError as error:
        raise WeightsError(f"{path}: its config does not fit: {error}") from None
    check_tensors(path, file.tensors, network.state_dict())
    network.load_state_dict(file.tensors)
    return network.eval()


def _config(path: Path, config_class: Any, values: dict[str, Any]) -> Any:
    try:
        return config_class.from_dict(values)
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: its config does not fit: {error}") from None


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise WeightsError naming the file and the first key that is missing, unknown, not finite or of another shape."""
    for key, value in expected.items():
        if key not in tensors:
            raise WeightsError(f"{path}: '{key}' is missing")
        if tensors[key].shape != value.shape:
            raise WeightsError(f"{path}: '{key}' has shape {list(tensors[key].shape)}, expected {list(value.shape)}")
        if not torch.isfinite(tensors[key]).all():
            raise WeightsError(f"{path}: '{key}' holds values that are not finite")
    for key in tensors:
        if key not in expected:
            raise WeightsError(f"{path}: unknown '{key}'")


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or cut short: {_line(error)}") from None
    architecture = metadata.get("architecture")
    if architecture not in NETWORKS:
        raise WeightsError(f"{path}: metadata 'architecture' is {architecture!r}, known: {', '.join(NETWORKS)}")
    return WeightFile(tensors, architecture, _json(path, metadata, "config"), _json(path, metadata, "notes"))


def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError):
        raise WeightsError(f"{path}: metadata '{key}' is missing or not JSON") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: metadata '{key}' is not a mapping")
    return value


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise nearly anything
        raise WeightsError(f"{path}: not a checkpoint of plain tensors, or cut short: {_line(error)}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds no state dict")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: '{key}' is not a tensor")
    return {str(key).removeprefix(PARALLEL): value for key, value in content.items()}


def _guess(tensors: Mapping[str, Tensor]) -> str | None:
    """Architecture by a telling key, so that two swapped files are told apart by name."""
    if any(key.startswith(("gnn.", "kenc.")) for key in tensors):
        return "superglue"
    return "superpoint" if any(key.startswith("conv1a.") for key in tensors) else None


def _architecture(network: nn.Module) -> str:
    return next(name for name, (network_class, _) in NETWORKS.items() if isinstance(network, network_class))


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
