"""Features of warped views, extracted once, for training the matcher.

Of each image a few views are kept: the first two nearly as taken, the others warped as the
benchmark warps. Any two views of an image make a pair whose homography is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from efficient_matcher.core.features import CANDIDATES
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.augment import AugmentConfig, augment
from efficient_matcher.learn.data import ImageSet, check_cells, key_of
from efficient_matcher.learn.homographies import TRAINING, HomographyRange, squeezed_homography
from efficient_matcher.learn.keypoints import centroids, sharp_peaks
from efficient_matcher.learn.parallel import rank, wait_for_all, world_size
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superpoint import SuperPoint, sample_descriptors, score_map
from efficient_matcher.learn.tiles import tiled_view
from efficient_matcher.learn.weights import fingerprint

Set = TypeVar("Set")
MILD = HomographyRange(perspective=0.0001, rotation_deg=5.0, scale=(0.9, 1.2), translation=0.05)


@dataclass(frozen=True)
class ViewConfig:
    """How many views, how large, and how they differ."""

    width: int = setting(480, minimum=64)
    height: int = setting(360, minimum=64)
    views: int = setting(8, minimum=2)  # per image
    keypoints: int = setting(400, minimum=8)  # per view
    nms_radius_px: int = setting(4, minimum=1)
    tiled: float = setting(0.5, minimum=0.0, maximum=1.0)  # share of the images replaced by four shrunken ones; see tiles.py
    warp: HomographyRange = TRAINING
    photometric: AugmentConfig = AugmentConfig(probability=0.3, sharpen=1.0)

    def __post_init__(self) -> None:
        check_cells(self.width, self.height)


@dataclass(frozen=True)
class ViewSet:
    """V views of each of I images: keypoints [I,V,N,2] px, scores [I,V,N], descriptors [I,V,N,D] float16.

    H: [I,V,3,3] maps the resized image to the view.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    H: Tensor


def extract_views(
    network: SuperPoint, images: ImageSet, config: ViewConfig, seed: int, part: int = 0, parts: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ViewSet:
    """Views of every `parts`-th image, from `part` on."""
    network = network.eval().to(memory_format=torch.channels_last)
    chosen = shares_of(len(images), part, parts, "images")
    rows = []
    for done, index in enumerate(chosen, 1):
        rng = np.random.default_rng([seed, index])
        views, transforms = _warped_views(base_view(images.images, index, config, rng), config, rng)
        rows.append((*extract(network, views, config.keypoints, config.nms_radius_px, rng), transforms))
        progress(done, len(chosen))
    keypoints, scores, descriptors, transforms = (torch.stack(column) for column in zip(*rows))
    return ViewSet(keypoints, scores, descriptors.half(), transforms)


def shares_of(count: int, part: int, parts: int, what: str) -> range:
    """Every `parts`-th of `count` things, from `part` on. Raises MatcherError where there are too few to go round."""
    if count < parts:
        raise MatcherError(f"{count} {what} for {parts} processes: each needs one; give more, or fewer --processes")
    return range(part, count, parts)


def gather_views(
    network: SuperPoint, images: ImageSet, config: ViewConfig, seed: int, folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None, name: str = "views",
) -> ViewSet:
    """Views of all images: each process extracts its part into `folder`, then reads those of all.

    A part is made again only when the network, the images or the settings are others. name: of the files.
    """
    key = features_key(network, images, config, seed)
    return gather_parts(ViewSet, folder, name, key, lambda part, parts: extract_views(
        network, images, config, seed, part, parts, progress))


def gather_views_of_all(
    networks: Sequence[SuperPoint], images: ImageSet, config: ViewConfig, seed: int, folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ViewSet:
    """The views as each of several extractors sees them, one after the other; a pair is always of one extractor."""
    sets = [gather_views(network, images, config, seed, folder, progress, f"views{index}" if index else "views")
            for index, network in enumerate(networks)]
    return ViewSet(*(torch.cat([getattr(part, f.name) for part in sets]) for f in fields(ViewSet)))


def gather_parts(kind: type[Set], folder: Path, name: str, key: str, make: Callable[[int, int], Set]) -> Set:
    """What `make(part, parts)` gives in all processes, joined; each keeps its part in `folder` under the key.

    kind: a dataclass of tensors that are joined along their first axis. Raises MatcherError naming the file when it
    cannot be written.
    """
    paths = [folder / f"{name}-{part}-of-{world_size()}.safetensors" for part in range(world_size())]
    own = paths[rank()]
    if not own.exists() or _stored_key(own) != key:
        part = make(rank(), world_size())
        partial = own.with_suffix(".partial")
        try:
            save_file({f.name: getattr(part, f.name).contiguous() for f in fields(kind)}, partial, {"key": key})
            partial.replace(own)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise MatcherError(f"{own}: cannot be written ({str(error).splitlines()[0]})") from None
    wait_for_all()
    parts = [load_file(path) for path in paths]
    return kind(*(torch.cat([part[f.name] for part in parts]) for f in fields(kind)))


def features_key(network: SuperPoint, images: ImageSet, config: Any, seed: int) -> str:
    """Of all that features depend on: SHA-256 of the network's tensors, the images, a config, the seed, and which keypoints
    are chosen."""
    return key_of([asdict(config), seed, images.key, fingerprint(network), "sharp peaks", CANDIDATES])


def _stored_key(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as stored:
            return (stored.metadata() or {}).get("key")
    except Exception:  # cut short or foreign: made again
        return None


def base_view(
    images: Sequence[NDArray[np.uint8]], index: int, config: ViewConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The image that is warped, in its own proportions."""
    if not config.tiled or rng.random() >= config.tiled:
        return images[index]
    chosen = [images[i] for i in (index, *rng.integers(0, len(images), 3))]
    return tiled_view(chosen, [np.zeros((0, 3), np.float32)] * 4, (config.width, config.height), rng)[0]


def _warped_views(
    image: NDArray[np.uint8], config: ViewConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Tensor]:
    size = (config.width, config.height)
    base = cv2.resize(image, size, interpolation=cv2.INTER_AREA if image.shape[1] > config.width else cv2.INTER_CUBIC)
    transforms = [squeezed_homography(rng, image.shape, size, MILD, as_published=False) if view < 2 else
                  squeezed_homography(rng, image.shape, size, config.warp) for view in range(config.views)]
    views = [augment(cv2.warpPerspective(base, H, size), rng, config.photometric) for H in transforms]
    return np.stack(views), torch.from_numpy(np.stack(transforms)).float()


@torch.no_grad()
def extract(
    network: SuperPoint, views: NDArray[np.uint8], count: int, radius: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` keypoints of each view [V,H,W]: positions [V,N,2], scores [V,N], descriptors [V,N,D].

    All on the CPU, wherever the network is. A view with fewer keypoints is filled up with random places, which teach
    the matcher the dustbin.
    """
    device = next(network.parameters()).device
    images = (torch.from_numpy(views)[:, None].to(device).float() / 255).contiguous(memory_format=torch.channels_last)
    logits, coarse = network(images)
    scores = score_map(logits)
    peaks, found = sharp_peaks(scores, count, radius)
    height, width = views.shape[1:]
    filler = torch.from_numpy(rng.integers((4, 4), (width - 4, height - 4), (*found.shape, 2))).to(device)
    peaks = torch.where(found[..., None], peaks, filler)
    at_peak = scores.reshape(len(views), -1).gather(1, peaks[..., 1] * width + peaks[..., 0])
    points = centroids(scores, peaks)
    return points.cpu(), at_peak.cpu(), sample_descriptors(coarse, points).cpu()
