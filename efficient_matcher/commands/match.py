"""`match`: two image files, their matches, the homography and, on demand, the relative pose between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.draw import draw_matches
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import check_apart, write_bytes_atomic, write_json
from efficient_matcher.records import PairResult, RelativePose
from efficient_matcher.ros.camera import CameraModel, pose_by_rays
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.calibration import read_calibration
from efficient_matcher.sources.images import read_image

LEAST_MARGIN, LEAST_PARALLAX_PX = 1.2, 3.0  # of a pose to be told without a doubt
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class MatchOptions:
    """Two image files; out: a picture of the matches; json: everything in numbers. camera_info: calibration of the
    camera both are of; focal_px: of both cameras instead, whose principal points are taken to be the images' centres.
    With neither, the relative pose is not asked for."""

    image0: Path
    image1: Path
    out: Path | None = None
    json: Path | None = None
    config: Config = Config()
    max_matches: int = 200
    focal_px: float | None = None
    camera_info: Path | None = None


def run(options: MatchOptions) -> PairResult:
    """Match, print the table, write what was asked for. Raises MatcherError."""
    if options.out is not None and options.out.suffix.lower() not in PICTURE_SUFFIXES:
        raise MatcherError(f"{options.out}: must end in one of {' '.join(PICTURE_SUFFIXES)}")
    check_apart([options.out, options.json], [options.image0, options.image1, options.camera_info])
    camera = _camera(options)
    images = [read_image(path, options.config.input.depth_bits) for path in (options.image0, options.image1)]
    matcher = Matcher.from_bundle(options.config.model.bundle, options.config)
    result = matcher.match(*images)
    pose = _pose(options, camera, matcher, result)
    if options.out is not None:
        picture = draw_matches(result, options.max_matches)
        write_bytes_atomic(options.out, cv2.imencode(options.out.suffix, picture)[1].tobytes())
    if options.json is not None:
        write_json(options.json, _report(options, matcher, result, pose))
    print_table("match", _rows(options, result, pose))
    return result


def _camera(options: MatchOptions) -> CameraModel | None:
    """The calibrated camera, if one is given. Raises MatcherError naming what is no calibration."""
    if options.focal_px is not None and options.camera_info is not None:
        raise MatcherError("--focal and --camera-info both say what the camera is; give one")
    if options.focal_px is not None and not np.isfinite(options.focal_px):
        raise MatcherError(f"--focal {options.focal_px:g}: must be a length in pixels")
    if options.camera_info is None:
        return None
    calibration = read_calibration(options.camera_info)
    try:
        camera = CameraModel.from_calibration(calibration)
        if problem := camera.problem_of(options.config.node.undistort):
            raise MatcherError(problem)
        return camera
    except MatcherError as error:
        raise MatcherError(f"{options.camera_info}: {str(error).removeprefix('camera_info: ')}") from None


def _pose(options: MatchOptions, camera: CameraModel | None, matcher: Matcher, result: PairResult) -> RelativePose | None:
    """By the calibration or the focal length, whichever is given; None without."""
    sides = (result.points0, result.features0), (result.measured1, result.features1)
    if camera is not None:
        undistort = options.config.node.undistort
        rays0, rays1 = (camera.rays(points, features.image_size, undistort) for points, features in sides)
        return pose_by_rays(result, rays0, rays1, (camera.focal_px(undistort),) * 2, options.config.geometry)
    if options.focal_px is None:
        return None
    return matcher.relative_pose(result, *(_intrinsics(options.focal_px, features.image_size) for _, features in sides))


def _intrinsics(focal_px: float, size: tuple[int, int]) -> NDArray[np.float64]:
    return np.array([[focal_px, 0, (size[0] - 1) / 2], [0, focal_px, (size[1] - 1) / 2], [0, 0, 1.0]])


def _report(options: MatchOptions, matcher: Matcher, result: PairResult, pose: RelativePose | None) -> dict[str, Any]:
    homography = result.homography
    return {
        "command": "match", "images": [options.image0, options.image1],
        "bundle": {"name": matcher.card.name, "hash": model_hash(matcher.card)} if matcher.card else None,
        "keypoints": [len(result.features0), len(result.features1)], "matches": len(result.matches),
        "inliers": int(homography.inliers.sum()), "valid": homography.valid, "homography": homography.matrix,
        "rmse_px": homography.rmse, "corner_covariance_px2": homography.corner_covariance,
        "points0": result.points0, "points1": result.points1, "scores": result.matches.scores,
        "inlier": homography.inliers, "depth": result.depth, "quarter_turns": result.quarter_turns,
        "relative_pose": None if pose is None else {"valid": pose.valid, **asdict(pose)},
        "timings_ms": result.timings, "config": options.config.values(),
    }


def _rows(options: MatchOptions, result: PairResult, pose: RelativePose | None) -> list[tuple[str, str]]:
    homography, count = result.homography, len(result.matches)
    inliers = int(homography.inliers.sum())
    rows = [("images", f"{options.image0}  {options.image1}"),
            ("keypoints", f"{len(result.features0)}  {len(result.features1)}"), ("matches", str(count)),
            ("inliers", f"{inliers} ({100 * inliers / count:.1f} %)" if count else "0")]
    if result.quarter_turns:
        rows.append(("turned", f"image 0 by {90 * result.quarter_turns} deg counter-clockwise"))
    if homography.matrix is None:
        rows.append(("homography", "none found"))
        rows += [] if options.config.match.turns else [("lies one on its side?", "--set match.turns=true")]
    else:
        rows += [("homography", "\n".join("  ".join(f"{value: .6g}" for value in row) for row in homography.matrix)),
                 ("rmse px", f"{homography.rmse:.3f}")]
    rows += [] if pose is None else _pose_rows(pose)
    rows += [("time ms", "  ".join(f"{stage} {value:.1f}" for stage, value in result.timings.items()))]
    written = {"picture": options.out, "json": options.json}
    return rows + [(f"-> {name}", str(path)) for name, path in written.items() if path]


def _pose_rows(pose: RelativePose) -> list[tuple[str, str]]:
    if pose.rotation is None or pose.translation is None:
        return [("relative pose", "none found")]
    turn = np.degrees(cv2.Rodrigues(pose.rotation)[0][:, 0])
    doubt = [text for text, doubtful in (("another fits nearly as well", pose.margin < LEAST_MARGIN),
                                         ("hardly any parallax: the direction is unsure", pose.parallax_px < LEAST_PARALLAX_PX))
             if doubtful]
    return [("rotation deg", "  ".join(f"{value: .3f}" for value in turn)),
            ("direction", "  ".join(f"{value: .4f}" for value in pose.translation)),
            ("parallax px", f"{pose.parallax_px:.1f}"), ("margin", f"{pose.margin:.2f}"),
            ("pose inliers", str(int(pose.inliers.sum()))), *[("pose", text) for text in doubt]]
