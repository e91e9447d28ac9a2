"""`make-bag`: a folder of images as a bag, to replay pictures that never were a recording."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.image import decode_colour
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.ros.discovery import full_name
from efficient_matcher.sources.bag_writer import Storage, write_image_bag
from efficient_matcher.sources.images import list_images, stamps_of


def run(folder: Path, out: Path, *, topic: str, frame_id: str, storage: Storage, compressed: bool) -> int:
    """Write the images of `folder` to the new bag `out`, stamped by their names; returns how many.

    topic: absolute, or relative to `/`. Raises MatcherError naming the topic, the folder, the image or the bag.
    """
    topic = full_name(topic)
    paths = list_images(folder)
    count = write_image_bag(out, _images(paths), topic=topic, frame_id=frame_id, storage=storage, compressed=compressed)
    print(f"{out}: {count} images")
    return count


def _images(paths: list[Path]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for path, stamp in zip(paths, _different(paths)):
        try:
            yield stamp, decode_colour(path.read_bytes())  # a bag keeps what the file holds, only matching goes grey
        except ImageError as error:
            raise SourceError(f"{path}: {error}") from None
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from None


def _different(paths: list[Path]) -> list[int]:
    """The stamps of the images. Raises SourceError where two have the same."""
    stamps, owner = stamps_of(paths), {}
    for path, stamp in zip(paths, stamps):
        if (other := owner.setdefault(stamp, path)) is not path:
            raise SourceError(f"{other} and {path.name}: the same stamp by their names; a bag is of one camera")
    return stamps
