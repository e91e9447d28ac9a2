"""Training images are read with care, and pairs agree with their homography."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from efficient_matcher.errors import SourceError
from efficient_matcher.learn.augment import AugmentConfig
from efficient_matcher.learn.data import ImageSet, PairConfig, load_images, pair_batch
from efficient_matcher.learn.homographies import HomographyRange
from efficient_matcher.learn.label_cache import label_images

PLAIN = AugmentConfig(probability=0.0)


def image_set(count: int = 3) -> ImageSet:
    rng = np.random.default_rng(0)
    images = [cv2.GaussianBlur(rng.integers(0, 256, (200, 260), np.uint8), (0, 0), 2) for _ in range(count)]
    return ImageSet([f"{i}.png" for i in range(count)], images, {})


def test_unusable_images_are_skipped_by_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((80, 90), np.uint8))
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((8, 90), np.uint8))
    (tmp_path / "broken.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("ignored")
    images = load_images(tmp_path)
    assert images.names == ["good.png"]
    assert images.skipped == {"tiny.png": "smaller than 64 px", "broken.jpg": "unreadable"}


def test_images_of_a_bag_are_those_of_the_folder(tmp_path: Path, write_bag: object) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (72, 96), np.uint8) for _ in range(3)]
    images = load_images(write_bag(tmp_path / "bag", [*pictures, pictures[0][:40]]))
    assert all(np.array_equal(a, b) for a, b in zip(images.images, pictures, strict=True))
    assert images.skipped == {"/camera/image_raw/000003": "smaller than 64 px"}


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}: no usable image"):
        load_images(tmp_path)


def test_labels_are_made_once_and_only_where_missing(tmp_path: Path) -> None:
    two, three = image_set(2), image_set(3)
    made: list[int] = []
    first = label_images(two, tmp_path / "labels.npz", 1, lambda done, of: made.append(of))
    again = label_images(three, tmp_path / "labels.npz", 1, lambda done, of: made.append(of))
    assert made == [2, 2, 1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_an_interrupt_keeps_the_labels_made_so_far(tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        label_images(image_set(3), tmp_path / "labels.npz", 1, interrupt)
    made: list[int] = []
    assert len(label_images(image_set(3), tmp_path / "labels.npz", 1, lambda done, of: made.append(of))) == 3
    assert made == [1]


def test_labels_of_before_there_were_checksums_are_taken(tmp_path: Path) -> None:
    label_images(image_set(2), tmp_path / "labels.npz", 1)
    with np.load(tmp_path / "labels.npz") as stored:
        old = {name: stored[name] for name in stored if name != "checksums"}
    np.savez(tmp_path / "labels.npz", **old)
    one, made = image_set(3), []
    only_new = ImageSet(one.names[2:], one.images[2:], {})
    label_images(only_new, tmp_path / "labels.npz", 1, lambda done, of: made.append(of))
    assert len(label_images(one, tmp_path / "labels.npz", 1, lambda done, of: made.append(-of))) == 3 and made == [1]


def test_other_images_of_the_same_names_are_told_apart(tmp_path: Path) -> None:
    two = image_set(2)
    other = ImageSet(two.names, [np.ascontiguousarray(image[::-1]) for image in two.images], {})
    assert two.key == image_set(2).key != other.key
    label_images(two, tmp_path / "labels.npz", 1)
    with pytest.raises(SourceError, match="holds labels of another image that is called"):
        label_images(other, tmp_path / "labels.npz", 1)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    labels = [np.zeros((0, 3), np.float32)] * 3
    batches = [pair_batch(image_set(), labels, PairConfig(pairs=2), 1, step) for step in (4, 4, 5)]
    assert bool((batches[0].images == batches[1].images).all())
    assert not bool((batches[0].images == batches[2].images).all())


def test_view_1_is_view_0_under_the_homography() -> None:
    config = PairConfig(pairs=1, photometric=PLAIN, warp=HomographyRange(translation=0.1))
    batch = pair_batch(image_set(1), [np.zeros((0, 3), np.float32)], config, 0, 0)
    view0, view1 = ((batch.images[i, 0].numpy() * 255).round().astype(np.uint8) for i in (0, 1))
    H = batch.motion.H_0to1[0].numpy().astype(float)
    expected = cv2.warpPerspective(view0, H, view0.shape[::-1])
    assert np.abs(expected.astype(int) - view1).mean() < 0.5


def test_labels_follow_crop_flip_and_warp() -> None:
    """A bright dot is labelled; wherever the dot goes in the views, its label goes."""
    ys, xs = np.mgrid[:200, :260]
    image = (255 * np.exp(-((xs - 120) ** 2 + (ys - 90) ** 2) / 50)).astype(np.uint8)
    labels = np.array([[120, 90, 1.0]], np.float32)
    config = PairConfig(pairs=1, photometric=PLAIN, warp=HomographyRange(translation=0.05))
    checked = 0
    for step in range(12):
        batch = pair_batch(ImageSet(["dot"], [image], {}), [labels], config, 0, step)
        for view, points in zip(batch.images[:, 0].numpy(), batch.labels):
            peak_y, peak_x = np.unravel_index(view.argmax(), view.shape)
            inner = 12 < peak_x < config.width - 12 and 12 < peak_y < config.height - 12
            if view.max() > 0.9 and inner:
                assert np.abs(points[0, :2] - (peak_x, peak_y)).max() < 2.5
                checked += 1
    assert checked >= 8


def test_a_share_of_the_views_is_put_together_from_four_images() -> None:
    levels = ImageSet([f"{i}.png" for i in range(6)], [np.full((200, 260), 40 * i, np.uint8) for i in range(6)], {})
    labels = [np.zeros((0, 3), np.float32)] * 6
    config = PairConfig(pairs=6, tiled=0.5, photometric=PLAIN)
    seen = [len(np.unique(view.numpy())) for step in range(10)
            for view in pair_batch(levels, labels, config, 0, step).images[:6]]
    assert 0.3 < np.mean(np.array(seen) > 1) < 0.6
