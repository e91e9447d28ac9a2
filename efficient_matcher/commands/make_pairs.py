"""`make-pairs`: a list of homography pairs over a folder of images, drawn as the published evaluation pairs were.

So that a choice can be made on images of one's own and the public list be left for the final figure.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import efficient_matcher
from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.files import check_apart, check_writable, write_json
from efficient_matcher.learn.homographies import benchmark_homography
from efficient_matcher.sources.images import usable_images
from efficient_matcher.sources.pairs import HomographyPair, write_pairs


@dataclass(frozen=True)
class MakePairsOptions:
    """images: folder. out: list file. count: pairs, by default one per image. json: report file."""

    images: Path
    out: Path
    count: int | None = None
    seed: int = 0
    overwrite: bool = False
    json: Path | None = None


def run(options: MakePairsOptions) -> int:
    """Write the list and say what was left out; returns how many pairs it holds.

    The same images, count and seed give the same list. Raises MatcherError where `out` exists and is not to be
    overwritten or cannot be written, SourceError where the folder holds no usable image.
    """
    if options.out.exists() and not options.overwrite:
        raise MatcherError(f"{options.out}: exists already; choose another --out, or --overwrite")
    check_writable(options.out)
    check_apart([options.out, options.json], [])
    sizes, skipped = _listable(options.images)
    pairs = _draw(options.images, sizes, options.count or len(sizes), options.seed)
    write_pairs(options.out, pairs, f"efficient-matcher {efficient_matcher.__version__} make-pairs "
                                    f"--count {len(pairs)} --seed {options.seed}")
    _report(options, len(pairs), skipped)
    return len(pairs)


def _listable(folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """(width, height) of each usable image by name; and why the others are not."""
    usable, skipped = usable_images(folder)
    sizes = {path.name: size for path, size in usable.items() if _can_be_listed(path.name)}
    skipped.update({path.name: "a name with spaces, with # in front, or not in UTF-8 cannot be listed"
                    for path in usable if path.name not in sizes})
    if not sizes:
        raise SourceError(f"{folder}: no usable image ({len(skipped)} skipped)")
    return sizes, skipped


def _can_be_listed(name: str) -> bool:
    return len(name.split()) == 1 and not name.startswith("#") and name.isprintable()


def _draw(folder: Path, sizes: dict[str, tuple[int, int]], count: int, seed: int) -> list[HomographyPair]:
    """Every image as often as any other, give or take one; in the order of the names."""
    rng = np.random.default_rng(seed)
    names = list(sizes)
    rounds, rest = divmod(count, len(names))
    places = np.sort(np.concatenate([np.tile(np.arange(len(names)), rounds), rng.permutation(len(names))[:rest]]))
    return [HomographyPair(name, folder / name, benchmark_homography(rng, *sizes[name]))
            for name in (names[place] for place in places)]


def _report(options: MakePairsOptions, count: int, skipped: dict[str, str]) -> None:
    if options.json is not None:
        write_json(options.json, {"command": "make-pairs", "version": efficient_matcher.__version__, "count": count,
                                  "seed": options.seed, "images": options.images, "skipped": skipped})
    for name, reason in skipped.items():
        print(f"skipped {os.fsencode(name).decode(errors='backslashreplace')}: {reason}")
    print(f"{options.out}: {count} pairs")
    words = ["efficient-matcher", "evaluate", "homography", str(options.out), "--images", str(options.images)]
    print(f"next: {shlex.join(words)}")
