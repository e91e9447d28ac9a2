"""Multiply-accumulates of the deployed networks, from their sizes alone."""

from __future__ import annotations

from efficient_matcher.learn.locator import HINTS
from efficient_matcher.learn.superglue import SuperGlueConfig
from efficient_matcher.learn.superpoint import CELL, SuperPointConfig

IMAGE_SIZE = (640, 480)
KEYPOINTS = 512


def superpoint_macs(config: SuperPointConfig, size: tuple[int, int] = IMAGE_SIZE) -> int:
    """Of one image of (width, height), as `extractor_graph.py` lays the network out, and of its locator."""
    pixels, inputs, total = size[0] * size[1], 1, 0
    for name, width in config.encoder.items():
        total += _kernel(config, name) * inputs * width * pixels // config.scale(name) ** 2
        inputs = width
    heads = (9 * inputs * (config.detector_width + config.descriptor_width) + config.detector_width * (CELL * CELL + 1)
             + config.descriptor_width * config.descriptor_dim)
    return total + (heads + _location_macs(config)) * pixels // (CELL * CELL) + KEYPOINTS * _locator_macs(config)


def superglue_macs(config: SuperGlueConfig, keypoints: int = KEYPOINTS) -> int:
    """Of two images of `keypoints` each, as `matcher_graph.py` lays the network out, all layers run."""
    dim, tokens, keys, per_key = config.descriptor_dim, 2 * keypoints, min(config.keys or keypoints, keypoints), 0
    widths = (3, *config.keypoint_encoder, dim)
    per_token = sum(inputs * outputs for inputs, outputs in zip(widths[:-1], widths[1:])) + dim * dim
    for heads, depth, hidden in config.layer_sizes():
        inner = heads * depth
        per_token += dim * inner + 2 * inner * keys + (dim + inner) * hidden + hidden * dim
        per_key += 2 * dim * inner
    return per_token * tokens + per_key * 2 * keys + dim * keypoints * keypoints


def _locator_macs(config: SuperPointConfig) -> int:
    """Per keypoint."""
    if not config.locator_widths:
        return 0
    widths = ((2 * config.locator_reach_px + 1) ** 2 + HINTS, *config.locator_widths, 3)
    return sum(inputs * outputs for inputs, outputs in zip(widths[:-1], widths[1:]))


def _kernel(config: SuperPointConfig, name: str) -> int:
    return 36 if config.half_stem and name == "1a" else 9


def _location_macs(config: SuperPointConfig) -> int:
    """Of the location branch, per cell of 8x8 pixels."""
    width, widths = config.location_width, {scale: config.encoder[name] for scale, name in config.scales.items()}
    if not width and not config.direct_location:
        return 0
    # four blocks a cell: 4x4 and 6x6 convolutions to 16 outputs
    if config.direct_location:
        blocks = 4 * 16 * (16 * widths[2] + widths[4])
    else:
        lateral = width * (16 * widths[2] + 4 * widths[4] + widths[8])
        blocks = lateral + 4 * 16 * (16 * width + 36 * widths.get(1, 0))
    return blocks + (CELL * CELL + 1) * 16 * 4
