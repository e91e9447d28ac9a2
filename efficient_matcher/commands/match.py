"""`match`: two image files, their matches and the homography between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.draw import draw_matches
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_bytes_atomic, write_json
from efficient_matcher.records import PairResult
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.images import read_image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class MatchOptions:
    """Two image files; out: a picture of the matches; json: everything in numbers."""

    image0: Path
    image1: Path
    out: Path | None = None
    json: Path | None = None
    config: Config = Config()
    max_matches: int = 200


def run(options: MatchOptions) -> PairResult:
    """Match, print the table, write what was asked for. Raises MatcherError."""
    if options.out is not None and options.out.suffix.lower() not in PICTURE_SUFFIXES:
        raise MatcherError(f"{options.out}: must end in one of {' '.join(PICTURE_SUFFIXES)}")
    images = read_image(options.image0), read_image(options.image1)
    matcher = Matcher.from_bundle(options.config.model.bundle, options.config)
    result = matcher.match(*images)
    if options.out is not None:
        picture = draw_matches(result, options.max_matches)
        write_bytes_atomic(options.out, cv2.imencode(options.out.suffix, picture)[1].tobytes())
    if options.json is not None:
        write_json(options.json, _report(options, matcher, result))
    print_table("match", _rows(options, result))
    return result


def _report(options: MatchOptions, matcher: Matcher, result: PairResult) -> dict[str, Any]:
    homography = result.homography
    return {
        "command": "match", "images": [options.image0, options.image1],
        "bundle": {"name": matcher.card.name, "hash": model_hash(matcher.card)} if matcher.card else None,
        "keypoints": [len(result.features0), len(result.features1)], "matches": len(result.matches),
        "inliers": int(homography.inliers.sum()), "valid": homography.valid, "homography": homography.matrix,
        "rmse_px": homography.rmse, "corner_covariance_px2": homography.corner_covariance,
        "points0": result.points0, "points1": result.points1, "scores": result.matches.scores,
        "inlier": homography.inliers, "depth": result.depth,
        "timings_ms": result.timings, "config": options.config.values(),
    }


def _rows(options: MatchOptions, result: PairResult) -> list[tuple[str, str]]:
    homography, count = result.homography, len(result.matches)
    inliers = int(homography.inliers.sum())
    rows = [("images", f"{options.image0}  {options.image1}"),
            ("keypoints", f"{len(result.features0)}  {len(result.features1)}"), ("matches", str(count)),
            ("inliers", f"{inliers} ({100 * inliers / count:.1f} %)" if count else "0")]
    if homography.matrix is None:
        rows.append(("homography", "none found"))
    else:
        rows += [("homography", "\n".join("  ".join(f"{value: .6g}" for value in row) for row in homography.matrix)),
                 ("rmse px", f"{homography.rmse:.3f}")]
    rows += [("time ms", "  ".join(f"{stage} {value:.1f}" for stage, value in result.timings.items()))]
    written = {"picture": options.out, "json": options.json}
    return rows + [(f"-> {name}", str(path)) for name, path in written.items() if path]
