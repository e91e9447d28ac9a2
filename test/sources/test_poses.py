"""Lists of pairs with poses: read back as written, and each way of being malformed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.errors import SourceError
from efficient_matcher.sources.poses import (ListedPose, encode_depth, read_depth, read_pose_list, read_upright,
                                             write_pose_list)

K = np.array([[500.0, 0, 9.5], [0, 510.0, 4.5], [0, 0, 1]])


def pose(shift: float = 0.25) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0.1, 0.2, 0.3]))[0]
    T[0, 3] = shift
    return T


@pytest.fixture()
def listed(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.arange(200, dtype=np.uint8).reshape(10, 20))
    write_pose_list(tmp_path / "pairs.txt", [ListedPose("a.png", "b.png", 0, 1, K, K, pose())], "made for a test")
    return tmp_path / "pairs.txt"


def fields_of(listed: Path) -> list[str]:
    return listed.read_text().splitlines()[1].split()


def test_a_list_is_read_back_exactly(listed: Path) -> None:
    (pair,) = read_pose_list(listed, listed.parent)
    assert (pair.name0, pair.name1, pair.turns0, pair.turns1) == ("a.png", "b.png", 0, 1)
    assert np.array_equal(pair.K1, K) and np.array_equal(pair.T_0to1, pose())


@pytest.mark.parametrize(("field", "value", "said"), [
    (0, "c.png", "c.png does not exist"), (4, "x", "could not convert"), (2, "half", "invalid literal"),
    (4, "-5", "K0 is not"), (13, "nan", "K1 is not"), (22, "0.9", "T_0to1 is not a rotation"),
    (25, "nan", "T_0to1 is not"), (25, "0", "in one place")])
def test_what_is_wrong_is_said_with_its_line(listed: Path, field: int, value: str, said: str) -> None:
    fields = fields_of(listed)
    fields[field] = value
    listed.write_text("# head\n\n" + " ".join(fields) + "\n")
    with pytest.raises(SourceError, match=rf"pairs.txt, line 3: .*{said}"):
        read_pose_list(listed, listed.parent)


def test_missing_numbers_missing_files_and_empty_lists(listed: Path, tmp_path: Path) -> None:
    listed.write_text(" ".join(fields_of(listed)[:-1]))
    with pytest.raises(SourceError, match="line 1: has 37 fields, needs 38"):
        read_pose_list(listed, listed.parent)
    listed.write_text("# nothing\n")
    with pytest.raises(SourceError, match="lists no pairs"):
        read_pose_list(listed, listed.parent)
    with pytest.raises(SourceError, match="nowhere.txt: cannot be read"):
        read_pose_list(tmp_path / "nowhere.txt", tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="not a text file"):
        read_pose_list(tmp_path / "binary.txt", tmp_path)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_image_and_its_camera_still_agree(listed: Path, turns: int) -> None:
    point = np.array([0.004, -0.006, 1.0])  # projects inside the 20x10 image
    image, upright, turn = read_upright(listed.parent / "a.png", turns, K)
    pixel, turned = K @ point, upright @ (turn @ point)
    plain = np.zeros((10, 20))
    x, y = np.rint(pixel[:2]).astype(int)
    plain[y, x] = 1
    y1, x1 = np.argwhere(np.rot90(plain, turns))[0]
    assert np.allclose(turned[:2], (x1, y1), atol=0.51) and image.shape == np.rot90(plain, turns).shape


def test_depth_in_millimetres(tmp_path: Path) -> None:
    path = tmp_path / "d.png"
    path.write_bytes(encode_depth(np.float32([[0, 1.2344, 70.0]])))
    assert read_depth(path) == pytest.approx(np.float32([[0, 1.234, 0]]))
    cv2.imwrite(str(path), np.zeros((2, 2), np.uint8))
    with pytest.raises(SourceError, match="16-bit"):
        read_depth(path)
