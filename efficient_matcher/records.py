"""What passes between the stages: small frozen records of numpy arrays.

Conventions, here once for all: keypoints are x right, y down, in pixels of the input image, pixel
centres at integers. Index 0 is the reference (earlier) image, index 1 the current one; H_0to1 maps
image 0 to image 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """A grey image as the networks see it.

    image: [H,W] uint8. scale: (sx, sy) from this image to input pixels,
    x_input = (x + 0.5) * sx - 0.5. stamp_ns and frame_id are the camera message's own.
    """

    image: NDArray[np.uint8]
    stamp_ns: int = 0
    frame_id: str = ""
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the input image, in pixels."""
        height, width = self.image.shape
        return round(width * self.scale[0]), round(height * self.scale[1])


@dataclass(frozen=True)
class Features:
    """Keypoints of one image: keypoints [N,2] float32, scores [N] float32, descriptors [N,D] float32 unit rows.

    Best first, as a matcher network may attend to the first ones alone. image_size: (width, height) of the input
    image, which the matcher needs to normalise positions. spreads: [N] float32 above 0, what the standard deviations of
    the positions are proportional to, px; None where that is not known. frame: the image they were found in, kept only
    where `match.turns` asks to look at it again.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    image_size: tuple[int, int]
    spreads: NDArray[np.float32] | None = None
    frame: Frame | None = None

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True)
class Matches:
    """indices [K,2] int32 into features 0 and 1; scores [K] float32 in [0,1], sorted descending.

    points0, points1: [K,2] float32 input-image px, where the matches are after refinement; None where the keypoints
    themselves are. One keypoint may lie elsewhere in each pair it is matched in, so this is no matter of Features.
    settled1: [K,2] float32, points1 once the matches around each have a say too; None where they have none. Their errors
    are no longer independent of each other.
    """

    indices: NDArray[np.int32]
    scores: NDArray[np.float32]
    points0: NDArray[np.float32] | None = None
    points1: NDArray[np.float32] | None = None
    settled1: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def positions(self, features0: Features, features1: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Matched points in image 0 and image 1, [K,2] px each, as they were measured: refined where they were, not settled."""
        points0 = features0.keypoints.take(self.indices[:, 0], axis=0) if self.points0 is None else self.points0
        points1 = features1.keypoints.take(self.indices[:, 1], axis=0) if self.points1 is None else self.points1
        return points0, points1

    def spreads(self, features0: Features,
                features1: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Of the matched points in image 0 and image 1, [K] each as in Features; None where either is not known, or
        refinement has placed them."""
        if self.points0 is not None or features0.spreads is None or features1.spreads is None:
            return None
        return features0.spreads.take(self.indices[:, 0]), features1.spreads.take(self.indices[:, 1])


@dataclass(frozen=True)
class Homography:
    """matrix [3,3] float64 H_0to1 with h22 = 1, or None when no homography was found.

    inliers: [K] bool, one per match. corner_covariance: [8,8] float64 px^2 of the four warped image
    corners (x0 y0 x1 y1 ..., from top left clockwise), NaN when not estimable. rmse: px, over the inliers.
    """

    matrix: NDArray[np.float64] | None
    inliers: NDArray[np.bool_]
    corner_covariance: NDArray[np.float64]
    rmse: float

    @property
    def valid(self) -> bool:
        """Whether a homography was found."""
        return self.matrix is not None


@dataclass(frozen=True)
class RelativePose:
    """How camera 1 stands to camera 0: a point X0 of camera 0's coordinates (x right, y down, z ahead) is
    rotation @ X0 + s * translation in camera 1's, with a length s > 0 that two images do not tell.

    rotation: [3,3] float64, translation: [3] of length 1; both None when no pose was found. inliers: [K] bool, one per
    match. covariance: [6,6] of the rotation vector (rad, multiplied from the left) and of the translation's direction,
    about this pose; NaN when not estimable. Two numbers say whether it is the right one. margin: how many times worse the
    next best pose, another by 5 degrees, explains the matches, infinite without one; below 1.2, where the scene is nearly
    a plane, it may be that one. parallax_px: how far inliers have moved beyond what the rotation moves, their median;
    where that is hardly more than their noise, the cameras only turned, and the translation says nothing.
    """

    rotation: NDArray[np.float64] | None
    translation: NDArray[np.float64] | None
    inliers: NDArray[np.bool_]
    covariance: NDArray[np.float64]
    margin: float
    parallax_px: float

    @property
    def valid(self) -> bool:
        """Whether a pose was found."""
        return self.rotation is not None


@dataclass(frozen=True)
class PairResult:
    """Everything known of one pair; timings in ms per stage.

    track_ids: [K] uint32, one per match, the same over frames for as long as a keypoint is followed;
    None outside tracking. frame0 and frame1 are None when features were given instead of images. depth: layer pairs
    of the matcher network that were run; 1 for a network that only runs as a whole, 0 where none was. quarter_turns: by
    how many of them image 0 was turned counter-clockwise to be matched (`match.turns`); points and homography are of
    the images as they are.
    """

    features0: Features
    features1: Features
    matches: Matches
    homography: Homography
    timings: dict[str, float] = field(default_factory=dict)
    track_ids: NDArray[np.uint32] | None = None
    frame0: Frame | None = None
    frame1: Frame | None = None
    depth: int = 0
    quarter_turns: int = 0

    @property
    def points0(self) -> NDArray[np.float32]:
        """Matched keypoints in image 0, [K,2] px, refined where they were."""
        return self.matches.positions(self.features0, self.features1)[0]

    @property
    def points1(self) -> NDArray[np.float32]:
        """Matched keypoints in image 1, [K,2] px, refined and settled where they were."""
        settled = self.matches.settled1
        return self.measured1 if settled is None else settled

    @property
    def measured1(self) -> NDArray[np.float32]:
        """points1 [K,2] px before settling, for what weighs each match by its own error."""
        return self.matches.positions(self.features0, self.features1)[1]


@dataclass(frozen=True)
class ModelCard:
    """What a bundle says of itself (model.yaml); checked at load against `READABLE_VERSIONS` and the hashes."""

    format_version: int
    name: str
    extractor: dict[str, object]  # architecture, widths, descriptor_dim, parameters, precision
    matcher: dict[str, object]  # architecture, widths, layers, heads, parameters, precision
    input_size: tuple[int, int]  # (width, height) the figures were measured at
    max_keypoints: int
    preprocessing: dict[str, object]
    files: dict[str, str]  # file name -> SHA-256
    licence: str
    training: dict[str, object]  # data, command, seed, hours
    measured: dict[str, object]  # accuracy and latency at export


FORMAT_VERSION = 2  # of what is written; 2: the matcher may come in stages
READABLE_VERSIONS = (1, 2)
