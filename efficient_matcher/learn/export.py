"""Trained networks to a bundle that a robot runs, each graph held against the network it came from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from efficient_matcher.core.backend import open_model
from efficient_matcher.core.bundle import (EXTRACTOR_NAME, LOCATOR_NAME, MATCHER_NAME, file_sha256, load_bundle,
                                           write_card)
from efficient_matcher.core.locate import inputs_of
from efficient_matcher.core.stages import StagedNetwork, normalised_keypoints
from efficient_matcher.errors import ExportError
from efficient_matcher.files import plain
from efficient_matcher.learn.bundle_folder import check_free, replace_bundle
from efficient_matcher.learn.extractor_graph import extractor_model
from efficient_matcher.learn.locator import Locator
from efficient_matcher.learn.locator_graph import locator_model
from efficient_matcher.learn.matcher_graph import matcher_model
from efficient_matcher.learn.matcher_stages import matcher_stages
from efficient_matcher.learn.superglue import SuperGlue
from efficient_matcher.learn.superpoint import SuperPoint, score_map
from efficient_matcher.records import FORMAT_VERSION, Features, ModelCard

# Share of an output's largest magnitude (or of 1). Both sides compute in float32, in different order.
PARITY_BOUND = 2e-4
IMAGE_SIZES = ((480, 640), (184, 264))  # (height, width)
KEYPOINT_COUNTS = ((512, 512), (300, 37))
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CardFields:
    """What a bundle's card says beyond what the networks themselves tell."""

    name: str
    licence: str
    training: Mapping[str, Any]
    measured: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = (640, 480)
    max_keypoints: int = 512


def write_bundle(folder: Path | str, superpoint: SuperPoint, superglue: SuperGlue, card: CardFields) -> ModelCard:
    """Export both networks, hold the graphs against them, and put the bundle in place as a whole.

    A bundle already at `folder` is replaced; any other content is not touched. Raises ExportError.
    """
    folder = Path(folder)
    dims = superpoint.config.descriptor_dim, superglue.config.descriptor_dim
    if dims[0] != dims[1]:
        raise ExportError(f"SuperPoint describes in {dims[0]} dimensions, SuperGlue reads {dims[1]}")
    check_free(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        written = _fill(partial, superpoint.eval(), superglue.eval(), card)
        replace_bundle(folder, partial)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def extractor_parity(
    model: onnx.ModelProto | Path, network: SuperPoint, sizes: Sequence[tuple[int, int]] = IMAGE_SIZES, seed: int = 0
) -> dict[str, float]:
    """Largest absolute difference between graph and network per output, over images of `sizes` (height, width).

    Raises ExportError when one is over PARITY_BOUND of the output's magnitude.
    """
    rng = np.random.default_rng(seed)
    session = _session(model)
    pairs = []
    for height, width in sizes:
        image = _image(rng, height, width)
        with torch.no_grad():
            logits, coarse = network.eval()(torch.from_numpy(image).float() / 255)
        expected = {"scores": score_map(logits).numpy(), "descriptors": coarse.permute(0, 2, 3, 1).numpy()}
        pairs.append((_run(session, {"image": image}), expected))
    return _differences(EXTRACTOR_NAME, pairs)


def locator_parity(model: onnx.ModelProto | Path, network: Locator, counts: Sequence[int] = (512, 37),
                   seed: int = 0) -> dict[str, float]:
    """As `extractor_parity`, for patches about `counts` keypoints."""
    rng = np.random.default_rng(seed)
    session = _session(model)
    pairs = []
    for count in counts:
        image = _image(rng, 480, 640)[0, 0]
        points = rng.uniform((0, 0), (639, 479), (count, 2)).astype(np.float32)
        inputs = inputs_of(image, points, rng.uniform(0.1, 2, count).astype(np.float32), network.reach_px)
        with torch.no_grad():
            moves, spreads = network.eval()(*map(torch.from_numpy, inputs.values()))
        pairs.append((_run(session, inputs), {"moves": moves.numpy(), "spreads": spreads.numpy()}))
    return _differences(LOCATOR_NAME, pairs)


def matcher_parity(
    model: onnx.ModelProto | Path, network: SuperGlue, counts: Sequence[tuple[int, int]] = KEYPOINT_COUNTS,
    seed: int = 0,
) -> dict[str, float]:
    """As `extractor_parity`, for pairs of images with `counts` keypoints of which most correspond."""
    rng = np.random.default_rng(seed)
    session = _session(model)
    pairs = []
    for count0, count1 in counts:
        inputs = _features(rng, count0, count1, network.config.descriptor_dim)
        with torch.no_grad():
            similarity = network.eval()(*(torch.from_numpy(value)[None] for value in inputs.values()))[0].numpy()
        expected = {"similarity": similarity, "dustbin": network.bin_score.detach().numpy()}
        pairs.append((_run(session, inputs), expected))
    return _differences(MATCHER_NAME, pairs)


def stages_parity(
    stages: Sequence[Path], network: SuperGlue, counts: Sequence[tuple[int, int]] = KEYPOINT_COUNTS, seed: int = 0
) -> dict[str, float]:
    """As `matcher_parity`, after every layer pair of a matcher in stages, run as core runs it."""
    rng = np.random.default_rng(seed)
    staged = StagedNetwork([open_model(path) for path in stages])
    pairs = []
    for count0, count1 in counts:
        inputs = _features(rng, count0, count1, network.config.descriptor_dim)
        sides = [Features(450 * inputs[f"keypoints{image}"] + 320, inputs[f"scores{image}"],
                          inputs[f"descriptors{image}"], (640, 640)) for image in "01"]
        inputs.update({f"keypoints{image}": normalised_keypoints(side) for image, side in zip("01", sides)})
        run = staged.start(*sides)
        with torch.no_grad():
            expected = network.eval().tokens(*(torch.from_numpy(value)[None] for value in inputs.values()))
            for tokens in expected:
                run.advance()
                found = dict(zip(("similarity", "dustbin"), map(np.asarray, run.similarity())))
                pairs.append((found, {"similarity": network.similarity(*tokens)[0].numpy(),
                                      "dustbin": network.bin_score.detach().numpy()}))
    return _differences("matcher in stages", pairs)


def _fill(folder: Path, superpoint: SuperPoint, superglue: SuperGlue, card: CardFields) -> ModelCard:
    stages = matcher_stages(matcher_model(superglue))
    locator = {} if superpoint.locator is None else {LOCATOR_NAME: locator_model(superpoint.locator)}
    graphs = {EXTRACTOR_NAME: extractor_model(superpoint), **locator, **stages}
    paths = [folder / name for name in graphs]
    for path, graph in zip(paths, graphs.values()):
        onnx.save(graph, str(path))
    parity = {**extractor_parity(folder / EXTRACTOR_NAME, superpoint),
              **stages_parity([folder / name for name in stages], superglue)}
    if superpoint.locator is not None:
        parity.update(locator_parity(folder / LOCATOR_NAME, superpoint.locator))
    written = ModelCard(
        format_version=FORMAT_VERSION, name=card.name,
        extractor=_description("superpoint", superpoint), matcher=_description("superglue", superglue),
        input_size=card.input_size, max_keypoints=card.max_keypoints,
        preprocessing={"channels": "grey", "dtype": "uint8", "sides_multiple_of": 8, "scaling": "1/255, in the graph",
                       "keypoints": "centred on the image, over 0.7 of its longer side"},
        files={path.name: file_sha256(path) for path in paths}, licence=card.licence,
        training=plain(dict(card.training)),
        measured=plain({**card.measured, "max_difference_to_torch": parity}))
    write_card(folder, written)
    return load_bundle(folder).card  # as it will be read, every field checked


def _description(architecture: str, network: SuperPoint | SuperGlue) -> dict[str, object]:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"architecture": architecture, **network.config.to_dict(), "parameters": parameters, "precision": "float32"}


def _session(model: onnx.ModelProto | Path) -> Any:
    import onnxruntime
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: Arrays) -> Arrays:
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs)))


def _differences(file: str, pairs: Sequence[tuple[Arrays, Arrays]]) -> dict[str, float]:
    result: dict[str, float] = {}
    for found, expected in pairs:
        for name, value in expected.items():
            if found[name].shape != value.shape:
                raise ExportError(f"{file}: {name} has shape {found[name].shape}, the network gives {value.shape}")
            difference = float(np.abs(found[name] - value).max())
            bound = PARITY_BOUND * max(1.0, float(np.abs(value).max()))
            if not difference <= bound:  # NaN is not
                raise ExportError(f"{file}: {name} differs from the network by {difference:.3g}, allowed {bound:.3g}")
            result[name] = max(result.get(name, 0.0), difference)
    return result


def _image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """[1,1,H,W] of overlapping rectangles with noise: edges, corners and flat parts, as in photographs."""
    image = np.full((height, width), 120.0)
    for _ in range(60):
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(4, height // 2), rng.integers(4, width // 2)
        image[top:top + tall, left:left + wide] = rng.uniform(0, 255)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)[None, None]


def _features(rng: np.random.Generator, count0: int, count1: int, dim: int) -> Arrays:
    """Inputs of the matcher: image 1 holds the first keypoints of image 0, moved and with other descriptors."""
    most = max(count0, count1)
    keypoints = rng.uniform(-0.7, 0.7, (most, 2))
    descriptors = rng.normal(size=(most, dim))
    inputs: Arrays = {}
    for image, count, noise in (("0", count0, 0.0), ("1", count1, 0.4)):
        rows = descriptors[:count] + noise * rng.normal(size=(count, dim))
        inputs[f"keypoints{image}"] = keypoints[:count] + 0.1 * noise
        inputs[f"scores{image}"] = np.sort(rng.uniform(0.001, 0.9, count))[::-1]
        inputs[f"descriptors{image}"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in inputs.items()}
