"""`make-scenes`: pairs of views of synthetic scenes, with exact pose and depth, from a folder of images."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import efficient_matcher
from efficient_matcher.files import result_folder, write_bytes_atomic, write_json
from efficient_matcher.sources.images import read_image, usable_images
from efficient_matcher.sources.poses import ListedPose, encode_depth, write_pose_list
from efficient_matcher.stopping import StopSignals

LIST, IMAGES, DEPTH = "pairs.txt", "images", "depth"


@dataclass(frozen=True)
class MakeScenesOptions:
    """images: folder of textures. out: folder of the results. level: of scenes.views.LEVELS. json: report file."""

    images: Path
    out: Path
    pairs: int
    level: str = "medium"
    seed: int = 0
    overwrite: bool = False
    json: Path | None = None


def run(options: MakeScenesOptions) -> int:
    """Write pictures, depth (16-bit PNG, mm) and the list, which is whole once it is there; returns the pairs.

    Raises MatcherError where `out` holds such results and is not to be overwritten, SourceError without usable images.
    """
    from rich.console import Console
    from rich.progress import track
    textures = read_textures(options.images)
    folder = result_folder(options.out, (LIST, IMAGES, DEPTH), options.overwrite, options.images)
    console = Console(stderr=True)
    listed = []
    with StopSignals() as stop:
        for pair in track(_written(options, textures, folder), "rendering", total=options.pairs, console=console,
                          disable=not console.is_terminal):
            listed.append(pair)
            if stop.requested:
                break
    write_pose_list(folder / LIST, listed, f"efficient-matcher {efficient_matcher.__version__} make-scenes --pairs "
                                           f"{options.pairs} --level {options.level} --seed {options.seed}")
    if options.json is not None:
        write_json(options.json, {"command": "make-scenes", "version": efficient_matcher.__version__,
                                  "pairs": options.pairs, "level": options.level, "seed": options.seed,
                                  "images": options.images, "textures": len(textures)})
    words = ["efficient-matcher", "evaluate", "pose", str(folder / LIST), "--images", str(folder / IMAGES)]
    print(f"{folder / LIST}: {len(listed)} pairs; next: {shlex.join(words)}")
    if len(listed) < options.pairs:
        raise KeyboardInterrupt  # what is listed is there
    return len(listed)


def read_textures(folder: Path) -> list[NDArray[np.uint8]]:
    """The usable images of a folder, grey, in the order of their names; says on stdout which are not.

    Raises SourceError when there is none.
    """
    usable, skipped = usable_images(folder)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    return [read_image(path) for path in usable]


def _written(options: MakeScenesOptions, textures: list[NDArray[np.uint8]], folder: Path) -> Iterator[ListedPose]:
    from efficient_matcher.scenes.views import draw_pair
    for index in range(options.pairs):
        pair = draw_pair(textures, options.level, options.seed, index)
        names = [f"{options.level}_{index:05d}_{side}.png" for side in (0, 1)]
        for name, view in zip(names, (pair.view0, pair.view1)):
            write_bytes_atomic(folder / IMAGES / name, cv2.imencode(".png", view.image)[1].tobytes())
            write_bytes_atomic(folder / DEPTH / name, encode_depth(view.depth))
        yield ListedPose(*names, 0, 0, pair.view0.K, pair.view1.K, pair.T_0to1)
