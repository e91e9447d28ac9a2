"""`make-bag`: a folder of images or a video as a bag, to replay pictures that never were a recording."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from efficient_matcher.core.image import decode_stored
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.ros.discovery import full_name
from efficient_matcher.sources.bag_writer import Storage, StoredImage, write_image_bag
from efficient_matcher.sources.calibration import read_calibration
from efficient_matcher.sources.images import SECOND_NS, list_images, stamps_of
from efficient_matcher.sources.video import video_images


def run(source: Path, out: Path, *, topic: str, frame_id: str, storage: Storage, compressed: bool,
        hz: float | None = None, camera_info: Path | None = None) -> int:
    """Write the images of a folder, or of a video, to the new bag `out`; returns how many.

    topic: absolute, or relative to `/`. hz: images a second, in place of what file names or the video say.
    camera_info: calibration of the camera. Raises MatcherError naming the topic, the source, the image or the bag.
    """
    topic = full_name(topic)
    calibration = None if camera_info is None else read_calibration(camera_info)
    images = video_images(source, hz) if source.is_file() else _images(list_images(source), hz)
    count = write_image_bag(out, images, topic=topic, frame_id=frame_id, storage=storage, compressed=compressed,
                            calibration=calibration)
    print(f"{out}: {count} images")
    return count


def _images(paths: list[Path], hz: float | None) -> Iterator[tuple[int, StoredImage]]:
    stamps = [round(index * SECOND_NS / hz) for index in range(len(paths))] if hz else _different(paths)
    for path, stamp in zip(paths, stamps):
        try:
            yield stamp, decode_stored(path.read_bytes())  # a bag keeps what the file holds, only matching goes grey
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
