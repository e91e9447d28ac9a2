"""Pictures of a run: a video that is whole, or none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.pictures import VIDEO_NAME, _Video, is_whole_mp4
from efficient_matcher.errors import MatcherError


def write_video(path: Path) -> Path | None:
    """Ten frames of noise by the class under test; skips where OpenCV has no encoder."""
    video = _Video(path)
    for picture in np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8):
        if not video.add(picture, 0.1):
            pytest.skip("this OpenCV has no video encoder")
    return video.close()


def test_video_of_odd_and_changing_sizes_is_whole(tmp_path: Path) -> None:
    video = _Video(tmp_path / VIDEO_NAME)
    for height, width in ((49, 65), (97, 129), (20, 30)):
        if not video.add(np.zeros((height, width, 3), np.uint8), 0.1):
            pytest.skip("this OpenCV has no video encoder")
    path = video.close()
    assert is_whole_mp4(path)
    reader = cv2.VideoCapture(str(path))
    assert (reader.get(cv2.CAP_PROP_FRAME_WIDTH), reader.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (64, 48)
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_video_cut_short_is_told_apart(tmp_path: Path, share: float) -> None:
    path = write_video(tmp_path / VIDEO_NAME)
    assert is_whole_mp4(path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    assert not is_whole_mp4(path)


def test_full_disk_leaves_no_half_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """As OpenCV on a full disk: writes what fits and says nothing."""

        def __init__(self, path: str, *_: object) -> None:
            Path(path).write_bytes(b"\0\0\0\x10ftypisom")

        def isOpened(self) -> bool:
            return True

        def write(self, picture: np.ndarray) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr("efficient_matcher.commands.pictures.cv2.VideoWriter", Full)
    with pytest.raises(MatcherError, match="video.mp4: cannot be written, the disk may be full"):
        write_video(tmp_path / VIDEO_NAME)
    assert not list(tmp_path.iterdir())
