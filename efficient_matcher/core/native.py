"""Inner loops of the matching in C, where this package was installed with a compiler at hand.

Each function says what numpy says in the module that calls it, in a third of the time or less; where `available` is
false, that module's numpy runs. The library is plain C behind ctypes, so that one file serves every Python, and its
calls leave the interpreter free for other threads. Arguments are checked by the callers; arrays become contiguous here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

INTERFACE = 3  # of the C files in kernels/; a library of another one, left by an older installation, is not used
SWITCH = "EFFICIENT_MATCHER_KERNELS"  # environment variable: "numpy" leaves the library alone
LINE = 16  # floats of a cache line
MOST_SAMPLES = 192  # of a patch and around it
NEAREST = 16  # matches around one
MOMENTS = 12  # of a local map
FLAGS = 64  # bytes of space beyond the flags of a row
MOST_ENTRIES = 64  # of a row of an assignment at first: its sum is 1, and what is above 1/64 of it is asked for

_SIGNATURES = {  # p: array, i: int64, f: float, d: double
    "em_peaks": "piiifppp", "em_first_of_ties": "piiiipipp", "em_centroids": "piipiifpp", "em_patches": "piipiip",
    "em_sample_floats": "piiipiffp", "em_sample_bytes": "piiipiffp", "em_transport": "piififffpipp",
    "em_entries": "piiifipppppp", "em_mutual": "pppiiifpp", "em_reweighed": "pppippippifpppp",
    "em_homography": "pppippppppppp", "em_align": "piipiipppipippipppppp", "em_neighbour_motions": "ppipiiidddpp",
    "em_settled": "ppppipfffpppp", "em_interface": "",
}
_address, _first_byte = ctypes.addressof, ctypes.c_char.from_buffer
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


def _opened() -> ctypes.CDLL | None:
    """The compiled library beside this file, or None."""
    if os.environ.get(SWITCH) == "numpy":
        return None
    for path in (Path(__file__).with_name(f"_kernels{suffix}") for suffix in EXTENSION_SUFFIXES):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # not there, or of another system
            continue
        if _described(library):
            return library
    return None


def _described(library: ctypes.CDLL) -> bool:
    """Tell ctypes the arguments of its functions. False if it is none of ours, or of another version."""
    try:
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [_TYPES[kind] for kind in arguments], ctypes.c_int64
    except AttributeError:
        return False
    return library.em_interface() == INTERFACE


_library = _opened()


def available() -> bool:
    """Whether the functions below may be called."""
    return _library is not None


def kind() -> str:
    """What runs: "compiled" or "numpy"."""
    return "compiled" if available() else "numpy"


def peaks(score_map: Floats, radius: int, least: float, border: int) -> Indices:
    """Flat indices, best first and equal ones in raster order, of the pixels of a map [H,W] that are at least `least`,
    above 0, and the largest within the radius, of equal ones within it the first; none within the border."""
    score_map = np.ascontiguousarray(score_map, np.float32)
    height, width = score_map.shape
    rows = _on_a_line((2 * radius + 1) * (-(-(width + 2 * radius) // LINE) * LINE))
    flags = np.zeros(width + FLAGS, np.uint8)
    sites = np.empty(score_map.size, np.int64)
    count = _library.em_peaks(_at(score_map), height, width, radius, least, _at(rows), _at(flags), _at(sites))
    own, keys = np.empty(count, np.float32), np.empty(count, np.int64)
    count = _library.em_first_of_ties(_at(score_map), height, width, radius, border, _at(sites), count, _at(own), _at(keys))
    return _in_order(keys[:count])


def centroids(score_map: Floats, sites: Indices, reach: int, least_variance: float) -> tuple[Floats, Floats]:
    """Of peaks at flat indices [N] the positions [N,2], which are the centroids of the scores around them, and the
    variances [N] about these."""
    score_map, sites = np.ascontiguousarray(score_map, np.float32), np.ascontiguousarray(sites, np.int64)
    points, variances = np.empty((len(sites), 2), np.float32), np.empty(len(sites), np.float32)
    _library.em_centroids(_at(score_map), *score_map.shape, _at(sites), len(sites), reach, least_variance, _at(points),
                          _at(variances))
    return points, variances


def patches(image: NDArray[np.uint8], pixels: Indices, reach: int) -> NDArray[np.uint8]:
    """See `core.locate.patches`: [N,(2 reach + 1)^2] of an image [H,W] about pixels [N,2] inside it."""
    image, pixels = np.ascontiguousarray(image, np.uint8), np.ascontiguousarray(pixels, np.int64)
    cut = np.empty((len(pixels), (2 * reach + 1) ** 2), np.uint8)
    _library.em_patches(_at(image), *image.shape, _at(pixels), len(pixels), reach, _at(cut))
    return cut


def sample_descriptors(coarse: Floats | NDArray[np.uint8], points: Floats, cell: int, zero: float) -> Floats:
    """Unit descriptors [N,D] at points [N,2] of a coarse map [R,C,D], in which `zero` stands for 0."""
    coarse, points = np.ascontiguousarray(coarse), np.ascontiguousarray(points, np.float32)
    sampled = np.empty((len(points), coarse.shape[2]), np.float32)
    sample = _library.em_sample_bytes if coarse.dtype == np.uint8 else _library.em_sample_floats
    sample(_at(coarse), *coarse.shape, _at(points), len(points), cell, zero, _at(sampled))
    return sampled


def transport(similarity: Floats, dustbin: float, iterations: int, tolerance: float, relaxation: float,
              absorb_above: float) -> tuple[Floats, int, int]:
    """See `core.transport.optimal_transport`: values [N+1,M+1], whose rows begin at lines of the cache, how many
    iterations were made, and how many values are above 1/2, dustbins aside."""
    similarity = np.ascontiguousarray(similarity, np.float32)
    n, m = similarity.shape
    stride = -(-(m + 1) // LINE) * LINE
    values = _on_a_line((n + 1) * stride).reshape(n + 1, stride)
    space, pairs = np.empty(3 * (n + m + 2), np.float32), ctypes.c_int64()
    done = _library.em_transport(_at(similarity), n, m, dustbin, iterations, tolerance, relaxation, absorb_above,
                                 _at(values), stride, ctypes.addressof(pairs), _at(space))
    return values[:, :m + 1], done, pairs.value


def entries(values: Floats, least: float) -> tuple[Indices, Indices, Floats, Indices, Indices]:
    """Rows (ascending), columns and values of the entries of an assignment [N+1,M+1] above `least`, dustbins aside; the
    rows that have any; and which of these each entry is in."""
    if values.dtype != np.float32 or values.strides[1] != values.itemsize:
        values = np.ascontiguousarray(values, np.float32)
    stride, n, m = values.strides[0] // values.itemsize, values.shape[0] - 1, values.shape[1] - 1
    asked = np.empty(n, np.int64)
    room, flags = n * min(m, MOST_ENTRIES), np.zeros(m + FLAGS, np.uint8)
    while True:
        indices, chances = np.empty((3, room), np.int64), np.empty(room, np.float32)
        found = _library.em_entries(_at(values), stride, n, m, least, room, _at(flags), _at(indices[0]), _at(indices[1]),
                                    _at(chances), _at(indices[2]), _at(asked))
        if found <= room:
            rows, columns, numbers = indices[:, :found]
            return rows, columns, chances[:found], asked[:numbers[-1] + 1 if found else 0], numbers
        room = found


def mutual(rows: Indices, columns: Indices, scores: Floats, n: int, m: int, threshold: float) -> Indices:
    """Which of the entries of N rows and M columns are the largest of both and at least `threshold` >= 0, of equal ones the
    first; best first."""
    scores = np.ascontiguousarray(scores, np.float32)
    best, keys = np.empty(n + m, np.int64), np.empty(len(rows), np.int64)
    found = _library.em_mutual(_at(rows), _at(columns), _at(scores), len(rows), n, m, threshold, _at(best), _at(keys))
    return _in_order(keys[:found])


class Maps(ctypes.Structure):
    """The constants of `core.local_maps` that its loops need."""

    _fields_ = [*[(name, ctypes.c_float) for name in ("unit_px", "stiffness", "slack", "tiny", "nothing")],
                ("neighbours", ctypes.c_int64)]

    @staticmethod
    def space(points: int, matches: int) -> int:
        """Floats that maps of so many points and matches need."""
        return matches * (points + MOMENTS + 3) + 5 * points + 3 * LINE


class Motion(ctypes.Structure):
    """The constants of `core.motion_prior` that its loops need."""

    _fields_ = [("maps", Maps), *[(name, ctypes.c_float) for name in ("spread_px", "lookalikes", "close_px", "far_px")]]


def reweighed(chances: Floats, asked: Indices, places1: Floats, places0: Floats, alone: Floats, telling: Indices,
              begun: Floats, area: float, constants: Motion) -> Floats:
    """Chances [E] of an assignment's entries, of keypoints `asked` [E] at places0 [Q,2] and with partners at places1 [E,2],
    once the motion is known by the entries `telling` [C], which are believed as begun [C] at first. alone: [Q], how
    likely keypoints have no partner, times what lookalikes count."""
    floats = [np.ascontiguousarray(array, np.float32) for array in (chances, places1, places0, alone, begun)]
    chances, places1, places0, alone, begun = floats
    asked, telling = np.ascontiguousarray(asked, np.int64), np.ascontiguousarray(telling, np.int64)
    entries, points, count = len(chances), len(places0), len(telling)
    begins, own = np.empty(count, np.int64), np.empty(entries, np.float32)
    space = np.empty(constants.maps.space(points, count) + 3 * count + 4 * points, np.float32)
    _library.em_reweighed(_at(chances), _at(asked), _at(places1), entries, _at(places0), _at(alone), points, _at(telling),
                          _at(begun), count, area, ctypes.addressof(constants), _at(begins), _at(space), _at(own))
    return own


class Settling(ctypes.Structure):
    """The constants of `core.settle` that its loops need."""

    _fields_ = [("maps", Maps), *[(name, ctypes.c_float) for name in ("agreeing", "contradicted", "least_variance")],
                *[(name, ctypes.c_int64) for name in ("rounds", "most_matches", "least_matches")]]


def settled(points0: Floats, points1: Floats, deviations0: Floats, deviations1: Floats, H: Doubles, unit: float,
            threshold: float, far: float, constants: Settling) -> Floats | None:
    """points1 [K,2] among their neighbours, with points0 [K,2], standard deviations [K] of either, and the homography H
    [3,3]; None where too few are before its horizon. unit: of lengths in image 0, and the rest as in `core.settle`."""
    arrays = [np.ascontiguousarray(array, np.float32) for array in (points0, points1, deviations0, deviations1)]
    H, count = np.ascontiguousarray(H, np.float64), len(points0)
    most = min(count, constants.most_matches)
    telling, found = np.empty(most, np.int64), np.empty((count, 2), np.float32)
    space = np.empty(constants.maps.space(count, most) + 3 * constants.most_matches + 11 * count, np.float32)
    done = _library.em_settled(*map(_at, arrays), count, _at(H), unit, threshold, far, ctypes.addressof(constants),
                               _at(telling), _at(space), _at(found))
    return found if done else None


class LeastSquares(ctypes.Structure):
    """The constants of `core.least_squares` that its loops need; threshold and noise in px."""

    _fields_ = [*[(name, ctypes.c_double) for name in (
        "horizon", "far", "threshold", "reach", "freedom", "unit_median", "most_uneven", "least_round", "converged",
        "smallest_noise", "least_noise", "largest_uncertainty", "least_signal")],
        *[(name, ctypes.c_int64) for name in ("steps", "fewest", "least_inliers")]]


def homography(
    points0: Doubles, points1: Doubles, start: Doubles, spreads: tuple[Doubles, Doubles] | None, corners: Doubles,
    constants: LeastSquares,
) -> tuple[Doubles, Doubles, Doubles] | None:
    """H [3,3] of points [K,2] px from a robust start, its errors [K] px, and the covariance [8,8] of corners [4,2]; None
    where the points do not determine one. spreads: [K] each."""
    arrays = points0, points1, start.copy(), corners, *(spreads or ())
    given = [np.ascontiguousarray(array, np.float64) for array in arrays]
    at_points0, at_points1, at_start, at_corners, *at_spreads = map(_at, given)
    count = len(points0)
    H, errors, covariance = np.empty((3, 3)), np.empty(count), np.empty((8, 8))
    space = np.empty((25, count))  # the last row is for flags
    at_space = _at(space)
    found = _library.em_homography(at_points0, at_points1, at_start, count, *(at_spreads or (None, None)), at_corners,
                                   ctypes.addressof(constants), _at(H), _at(errors), _at(covariance),
                                   at_space + 24 * count * space.itemsize, at_space)
    return (H, errors, covariance) if found else None


class Alignment(ctypes.Structure):
    """The constants of `core.align` that its loops need, and the prior, in patch units."""

    _fields_ = [*[(name, ctypes.c_float) for name in ("spacing", "steeper", "least_seen", "correlated", "least_noise",
                                                      "least_contrast", "largest_step", "prior")],
                ("passes", ctypes.c_int64)]


def align(
    images: Sequence[NDArray[np.uint8]], points0: Floats, points1: Floats, motions: Floats, places: Floats,
    neighbours: NDArray[np.int32], weights: Floats, constants: Alignment,
) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
    """The fields of `core.align.Alignment`: of patches about points [K,2] px of two images of at least 2 x 2 pixels, under
    motions [K,2,2]. places [3,T], of which the first S have neighbours [4,S] (left, right, above, below) and weights
    [S]; T is at most MOST_SAMPLES."""
    images = [np.ascontiguousarray(image) for image in images]
    floats = [np.ascontiguousarray(array, np.float32) for array in (points0, points1, motions, places, weights)]
    points0, points1, motions, places, weights = floats
    neighbours, count = np.ascontiguousarray(neighbours, np.int32), len(points0)
    moves, others, seen = np.empty((count, 2), np.float32), np.empty((3, count), np.float32), np.empty(count, bool)
    of_images = [value for image in images for value in (_at(image), *image.shape)]
    _library.em_align(*of_images, _at(points0), _at(points1), _at(motions), count, _at(places), places.shape[1],
                      _at(neighbours), _at(weights), len(weights), ctypes.addressof(constants), _at(moves),
                      *[_at(row) for row in others], _at(seen))
    return moves, *others, seen


def neighbour_motions(points0: Doubles, points1: Doubles, which: Indices, wanted: int, rounds: int, near_px: float,
                      noise_px: float, singular: float) -> tuple[Doubles, Doubles]:
    """Affine maps [R,2,3] around the matches `which` [R] of points [K,2], each by its `wanted` <= NEAREST nearest ones,
    itself among them, and how many of these agree [R]."""
    points0, points1 = (np.ascontiguousarray(points, np.float64) for points in (points0, points1))
    which = np.ascontiguousarray(which, np.int64)
    affine, support = np.empty((len(which), 2, 3)), np.empty(len(which))
    _library.em_neighbour_motions(_at(points0), _at(points1), len(points0), _at(which), len(which), wanted, rounds, near_px,
                                  noise_px, singular, _at(affine), _at(support))
    return affine, support


def _on_a_line(count: int) -> Floats:
    """So many floats, of which the first begins a line of the cache."""
    flat = np.empty(count + LINE, np.float32)
    first = -(_at(flat) // flat.itemsize) % LINE
    return flat[first: first + count]


def _in_order(keys: Indices) -> Indices:
    """The lower halves of keys, of which the upper ones are the order."""
    keys.sort()
    keys &= 0xFFFFFFFF
    return keys


def _at(array: NDArray) -> int:
    """Its address. Numpy's own way to it takes three times as long, and a frame asks some seventy times."""
    try:
        return _address(_first_byte(array))
    except (TypeError, ValueError):  # read-only, with gaps, or empty
        return array.ctypes.data
