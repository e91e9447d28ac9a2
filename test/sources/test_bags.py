"""Bags: three formats, and everything that can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.ros.messages import image_message, make_header
from efficient_matcher.sources.bag_writer import BagWriter, write_image_bag
from efficient_matcher.sources.bags import ImageBag

rosbags = pytest.importorskip("rosbags")
AS_IS = InputConfig(width=0, height=0)
IMAGES = [np.full((16, 24), 10 * index, np.uint8) for index in range(5)]


def read(bag: ImageBag) -> list[tuple[int, int]]:
    """(stamp_ns, grey value at the origin) of each frame."""
    return [(item.frame.stamp_ns, int(item.frame.image[0, 0])) for item in bag.frames(AS_IS)]


def write_ros1_bag(path: Path) -> Path:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore
    store = get_typestore(Stores.ROS1_NOETIC)
    image, header = store.types["sensor_msgs/msg/Image"], store.types["std_msgs/msg/Header"]
    time = store.types["builtin_interfaces/msg/Time"]
    with Writer(path) as writer:
        connection = writer.add_connection("/cam/image", "sensor_msgs/msg/Image", typestore=store)
        for index, pixels in enumerate(IMAGES):
            message = image(header=header(seq=index, stamp=time(sec=100 + index, nanosec=5), frame_id="cam"), height=16,
                            width=24, encoding="mono8", is_bigendian=0, step=24, data=pixels.ravel())
            writer.write(connection, 10**9 * (200 + index), store.serialize_ros1(message, connection.msgtype))
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_images_come_back_with_their_stamps(tmp_path: Path, storage: str, compressed: bool) -> None:
    images = [(10**18 + index, image) for index, image in enumerate(IMAGES)]
    assert write_image_bag(tmp_path / "bag", images, storage=storage, compressed=compressed, frame_id="front") == 5
    with ImageBag(tmp_path / "bag") as bag:
        assert (bag.storage, bag.message_count) == (storage, 5)
        assert bag.topic == "/camera/image_raw" + ("/compressed" if compressed else "")
        items = list(bag.frames(AS_IS))
    assert [item.frame.stamp_ns for item in items] == [stamp for stamp, _ in images]
    assert [item.time_ns for item in items] == [stamp for stamp, _ in images]
    assert items[0].frame.frame_id == "front"
    np.testing.assert_allclose([item.frame.image[0, 0] for item in items], [0, 10, 20, 30, 40], atol=1)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_single_storage_file_is_a_bag_too(tmp_path: Path, storage: str) -> None:
    write_image_bag(tmp_path / "bag", [(5, IMAGES[1])], storage=storage)
    file = next((tmp_path / "bag").glob("bag.*"))
    with ImageBag(file) as bag:
        assert bag.storage == storage
        assert read(bag) == [(5, 10)]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_folder_may_be_named_like_a_ros1_bag(tmp_path: Path, storage: str) -> None:
    write_image_bag(tmp_path / "drive.bag", [(5, IMAGES[1])], storage=storage)
    with ImageBag(tmp_path / "drive.bag") as bag:
        assert bag.storage == storage
        assert read(bag) == [(5, 10)]


def test_ros1_bags_are_read_and_answered_in_mcap(tmp_path: Path) -> None:
    with ImageBag(write_ros1_bag(tmp_path / "old.bag")) as bag:
        assert (bag.topic, bag.storage, bag.message_count) == ("/cam/image", "mcap", 5)
        assert read(bag) == [((100 + index) * 10**9 + 5, 10 * index) for index in range(5)]


def test_limit_counts_messages(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    with ImageBag(write_bag(tmp_path / "bag", IMAGES, alter={0: {"step": 3}})) as bag:
        assert len(list(bag.frames(AS_IS, limit=2))) == 1
        assert bag.received == 2


@pytest.mark.parametrize(("fields", "reason"), [
    ({"encoding": "nv21"}, "encoding 'nv21' is unknown"), ({"step": 23}, "step is 23 bytes"),
    ({"height": 0}, "height is 0"), ({"width": 0, "step": 0}, "width is 0"), ({"height": 17}, "data has 384 bytes"),
])
def test_a_bad_message_is_counted_and_skipped(
        tmp_path: Path, write_bag: Callable[..., Path], fields: dict, reason: str) -> None:
    with ImageBag(write_bag(tmp_path / "bag", IMAGES, alter={1: fields, 3: fields})) as bag:
        assert [value for _, value in read(bag)] == [0, 20, 40]
        assert bag.received == 5
        assert list(bag.skipped.values()) == [2]
        assert reason in next(iter(bag.skipped))


def test_a_message_cut_short_is_counted_and_skipped(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/image", "sensor_msgs/msg/Image")
        writer._writer.write(writer._connections["/image"], 1, b"\x00\x01\x00\x00\x01")
    with ImageBag(tmp_path / "bag") as bag:
        assert read(bag) == []
        assert "message cannot be parsed" in next(iter(bag.skipped))


def test_stamps_may_go_back(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    with ImageBag(write_bag(tmp_path / "bag", IMAGES[:3], stamps=[20, 30, 10])) as bag:
        assert [stamp for stamp, _ in read(bag)] == [20, 30, 10]


def test_several_image_topics_are_listed(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    path = write_bag(tmp_path / "bag", IMAGES, topics=("/left", "/right"))
    with pytest.raises(SourceError, match="bag: has several image topics, choose one with --topic: /left, /right"):
        ImageBag(path)
    with ImageBag(path, "/right") as bag:
        assert len(read(bag)) == 5


def test_wrong_topics_are_answered_with_what_there_is(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    path = write_bag(tmp_path / "bag", IMAGES)
    with pytest.raises(SourceError, match=r"'/foo' is not an image topic .* it has /camera/image_raw \(.*, 5\)"):
        ImageBag(path, "/foo")


def test_no_image_topic(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/chatter", "std_msgs/msg/String")
        writer.write("/chatter", 1, writer.types.string(data="hello"))
    with pytest.raises(SourceError, match=r"bag: has no image topic; it has /chatter \(std_msgs/msg/String, 1\)"):
        ImageBag(tmp_path / "bag")


def test_image_topic_without_messages(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/image", "sensor_msgs/msg/Image")
        writer.add_topic("/chatter", "std_msgs/msg/String")
        writer.write("/chatter", 1, writer.types.string(data="hello"))
    with pytest.raises(SourceError, match="no image message on /image"):
        ImageBag(tmp_path / "bag", "/image")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_empty_bag(tmp_path: Path, storage: str) -> None:
    with BagWriter(tmp_path / "bag", storage) as writer:
        writer.add_topic("/image", "sensor_msgs/msg/Image")
    with pytest.raises(SourceError, match="bag: the bag holds no messages"):
        ImageBag(tmp_path / "bag")


def test_missing_bag(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="run.mcap: does not exist"):
        ImageBag(tmp_path / "run.mcap")


def test_folder_that_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a bag folder"):
        ImageBag(tmp_path)


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".bag", ".txt"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 200, b"x"])
def test_foreign_and_empty_files_are_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"run{suffix}") as caught:
        ImageBag(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "ros1"])
def test_truncated_bag_is_one_line_and_gives_what_it_can(tmp_path: Path, kind: str, share: float) -> None:
    if kind == "ros1":
        file = write_ros1_bag(tmp_path / "old.bag")
    else:
        noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64), np.uint8)
        write_image_bag(tmp_path / "bag", list(enumerate(noise)), storage=kind)
        file = next((tmp_path / "bag").glob("bag.*"))
    file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size)])
    with pytest.raises(SourceError, match=str(file.parent)) as caught:
        with ImageBag(file if kind == "ros1" else file.parent) as bag:
            read(bag)
    assert "\n" not in str(caught.value)


def test_camera_info_beside_the_images_is_found(tmp_path: Path) -> None:
    from efficient_matcher.ros.messages import image_message, make_header
    with BagWriter(tmp_path / "bag") as writer:
        header = make_header(writer.types, 1, "cam")
        writer.add_topic("/cam/image_raw", "sensor_msgs/msg/Image")
        writer.write("/cam/image_raw", 1, image_message(writer.types, header, IMAGES[0]))
        writer.add_topic("/cam/camera_info", "sensor_msgs/msg/CameraInfo")
        kinds = writer._typestore.types
        roi = kinds["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        writer.write("/cam/camera_info", 1, kinds["sensor_msgs/msg/CameraInfo"](
            header=header, height=16, width=24, distortion_model="plumb_bob", d=np.zeros(5), k=np.arange(9.0),
            r=np.zeros(9), p=np.zeros(12), binning_x=0, binning_y=0, roi=roi))
    with ImageBag(tmp_path / "bag") as bag:
        assert bag.camera_info().k.tolist() == list(range(9))


def test_messages_that_the_file_lacks_are_counted(tmp_path: Path) -> None:
    write_image_bag(tmp_path / "bag", list(enumerate(IMAGES)))
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 5", "message_count: 7"))
    with ImageBag(tmp_path / "bag") as bag:
        assert len(read(bag)) == 5
    assert dict(bag.skipped) == {"message is missing, though the bag counts it": 2}


def test_a_limit_is_no_reason_to_miss_messages(tmp_path: Path) -> None:
    write_image_bag(tmp_path / "bag", list(enumerate(IMAGES)))
    for limit in (3, 5, 9):
        with ImageBag(tmp_path / "bag") as bag:
            assert len(list(bag.frames(AS_IS, limit))) == min(limit, 5)
        assert not bag.skipped


@pytest.mark.parametrize(("kind", "hint"), [("mcap", "`recover`"), ("sqlite3", "`.recover`"),
                                            ("ros1", "`rosbag reindex`")])
def test_bag_cut_short_is_told_with_what_may_save_it(tmp_path: Path, kind: str, hint: str) -> None:
    if kind == "ros1":
        file = write_ros1_bag(tmp_path / "old.bag")
    else:
        write_image_bag(tmp_path / "bag", list(enumerate(IMAGES)), storage=kind)
        file = next((tmp_path / "bag").glob("bag.*"))
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    with pytest.raises(SourceError, match=f"cannot be read as a bag: .*cut short.*{hint}"):
        ImageBag(file)


def test_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    write_image_bag(tmp_path / "bag", [(5, IMAGES[1])])
    with pytest.raises(MatcherError, match="bag: exists already"):
        write_image_bag(tmp_path / "bag", [(5, IMAGES[2])])
    with ImageBag(tmp_path / "bag") as bag:
        assert read(bag) == [(5, 10)]


def test_bag_stays_readable_when_its_writing_breaks_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with BagWriter(tmp_path / "bag") as writer:
            writer.add_topic("/camera/image_raw", "sensor_msgs/msg/Image")
            writer.write("/camera/image_raw", 5, image_message(writer.types, make_header(writer.types, 5, ""), IMAGES[1]))
            raise KeyboardInterrupt
    with ImageBag(tmp_path / "bag") as bag:
        assert read(bag) == [(5, 10)]


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(MatcherError, match="bag: cannot be written: .*No space left"):
        with BagWriter(tmp_path / "bag") as writer:
            writer.add_topic("/chatter", "std_msgs/msg/String")
            monkeypatch.setattr(writer._writer.storage, "write", full)
            writer.write("/chatter", 1, writer.types.string(data="hello"))


def test_an_interrupted_bag_of_images_is_none(tmp_path: Path) -> None:
    """It would look like a whole one, and a second try would find it there."""
    def images() -> Iterator[tuple[int, np.ndarray]]:
        yield 5, IMAGES[1]
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_image_bag(tmp_path / "bag", images())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_a_bag_that_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_bag(tmp_path / "bag", [(5, IMAGES[1])])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr("efficient_matcher.sources.bag_writer.output_typestore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image_bag(tmp_path / "bag", [(6, IMAGES[1])])
    with ImageBag(tmp_path / "bag") as bag:
        assert read(bag) == [(5, 10)]


def test_bag_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/chatter", "std_msgs/msg/String")
        writer.write("/chatter", 1, writer.types.string(data="hello"))
        assert [path.name for path in tmp_path.iterdir()] == [".bag.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_bag_that_cannot_be_closed_stays_partial_until_the_next_run(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(MatcherError, match="bag: cannot be written: .*No space left.*unfinished in .*.bag.partial"):
        with BagWriter(tmp_path / "bag") as writer:
            monkeypatch.setattr(writer._writer, "close", full)
    assert [path.name for path in tmp_path.iterdir()] == [".bag.partial"]
    write_image_bag(tmp_path / "bag", [(5, IMAGES[1])])
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_no_images_make_no_bag(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="bag: there was no image to write"):
        write_image_bag(tmp_path / "bag", [])
    assert not list(tmp_path.iterdir())


def test_jpeg_in_colour_is_decoded_grey(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 2] = 255
    write_image_bag(tmp_path / "bag", [(5, red)], compressed=True)
    with ImageBag(tmp_path / "bag") as bag:
        frame = next(bag.frames(AS_IS)).frame
    np.testing.assert_allclose(frame.image, cv2.cvtColor(red, cv2.COLOR_BGR2GRAY), atol=3)
