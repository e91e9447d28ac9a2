"""Decoding: every encoding on a picture whose grey is known, every wrong field named."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.core.image import ENCODINGS, decode_compressed, decode_image, to_frame
from efficient_matcher.errors import ImageError

HEIGHT, WIDTH = 10, 12
RED, GREEN, BLUE = 200, 100, 20
GREY = round(0.299 * RED + 0.587 * GREEN + 0.114 * BLUE)  # 121
CHANNELS = {"r": RED, "g": GREEN, "b": BLUE, "a": 77}


def ramp() -> NDArray[np.uint8]:
    """[HEIGHT,WIDTH] with every value different."""
    return np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) + 100


def padded(rows: NDArray[np.uint8], padding: int) -> tuple[bytes, int]:
    """Bytes of rows [H, n] with `padding` bytes of rubbish after each, and their step."""
    rubbish = np.full((len(rows), padding), 251, np.uint8)
    return np.hstack([rows, rubbish]).tobytes(), rows.shape[1] + padding


def mosaic(pattern: str) -> NDArray[np.uint8]:
    """One colour seen through a Bayer pattern, given by its first four pixels in reading order."""
    image = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        image[index // 2 :: 2, index % 2 :: 2] = CHANNELS[letter]
    return image


def wide(image: NDArray[np.uint8], is_bigendian: bool) -> NDArray[np.uint8]:
    """8-bit values as the upper byte of 16-bit ones, their lower byte rubbish; as bytes [H, 2n]."""
    values = image.astype(np.uint16) * 256 + 199
    return values.astype(">u2" if is_bigendian else "<u2").view(np.uint8).reshape(len(image), -1)


@pytest.mark.parametrize("padding", [0, 1, 20])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_comes_back_as_it_is(encoding: str, padding: int) -> None:
    data, step = padded(ramp(), padding)
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, encoding, step), ramp())


def test_grey_is_not_copied() -> None:
    data = np.frombuffer(padded(ramp(), 4)[0], np.uint8)
    assert np.shares_memory(decode_image(data, HEIGHT, WIDTH, "mono8", WIDTH + 4), data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b),
                                  lambda b: np.frombuffer(b, np.uint8)])
def test_every_kind_of_buffer(kind: type) -> None:
    np.testing.assert_array_equal(decode_image(kind(ramp().tobytes()), HEIGHT, WIDTH, "mono8", WIDTH), ramp())


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_16_bit_grey_keeps_its_upper_byte(encoding: str, is_bigendian: bool, padding: int) -> None:
    data, step = padded(wide(ramp(), is_bigendian), padding)
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, encoding, step, is_bigendian), ramp())


@pytest.mark.parametrize("is_bigendian", [False, True])
def test_12_bits_in_16(is_bigendian: bool) -> None:
    values = np.array([[0, 15, 16, 0x800, 0xFFF, 0xFFFF]]).astype(">u2" if is_bigendian else "<u2")
    grey = decode_image(values.tobytes(), 1, 6, "mono16", 12, is_bigendian, depth_bits=12)
    assert grey.tolist() == [[0, 0, 1, 128, 255, 255]]  # what exceeds the depth saturates


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4"])
def test_colour_weights_its_channels(encoding: str, padding: int) -> None:
    order = {"8UC3": "bgr", "8UC4": "bgra"}.get(encoding, encoding[:-1])
    pixel = np.array([CHANNELS[letter] for letter in order], np.uint8)
    data, step = padded(np.tile(pixel, (HEIGHT, WIDTH)), padding)
    grey = decode_image(data, HEIGHT, WIDTH, encoding, step)
    assert grey.shape == (HEIGHT, WIDTH) and (grey == GREY).all()


@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_16_bit_colour(order: str, is_bigendian: bool) -> None:
    pixel = np.array([CHANNELS[letter] for letter in order], np.uint8)
    data, step = padded(wide(np.tile(pixel, (HEIGHT, WIDTH)), is_bigendian), 4)
    assert (decode_image(data, HEIGHT, WIDTH, f"{order}16", step, is_bigendian) == GREY).all()


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding, luma", [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_yuv_gives_its_luma(encoding: str, luma: int, padding: int) -> None:
    pairs = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
    pairs[..., luma] = ramp()
    data, step = padded(pairs.reshape(HEIGHT, -1), padding)
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, encoding, step), ramp())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_names_the_first_four_pixels(pattern: str, bits: int) -> None:
    image = mosaic(pattern)
    data, step = padded(image if bits == 8 else wide(image, False), 3)
    grey = decode_image(data, HEIGHT, WIDTH, f"bayer_{pattern}{bits}", step)
    assert np.abs(grey.astype(int) - GREY).max() <= 1


def test_8_bit_images_do_not_care_for_endianness() -> None:
    for encoding in ("mono8", "rgb8", "yuv422"):
        data = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8)
        step = WIDTH * {"mono8": 1, "rgb8": 3, "yuv422": 2}[encoding]
        little = decode_image(data[: HEIGHT * step], HEIGHT, WIDTH, encoding, step, False)
        big = decode_image(data[: HEIGHT * step], HEIGHT, WIDTH, encoding, step, True)
        np.testing.assert_array_equal(little, big)


def test_every_known_encoding_decodes() -> None:
    for encoding in ENCODINGS:
        step = WIDTH * 8
        assert decode_image(bytes(HEIGHT * step), HEIGHT, WIDTH, encoding, step).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("change, message", [
    ({"encoding": "mono9"}, r"encoding 'mono9' is unknown \(known: .*mono8"),
    ({"encoding": ""}, "encoding '' is unknown"),
    ({"encoding": None}, "encoding None is unknown"),
    ({"height": 0}, "height is 0, must be positive"),
    ({"width": 0}, "width is 0, must be positive"),
    ({"width": -1}, "width is -1, must be positive"),
    ({"height": 2.5}, "height is 2.5, must be an integer"),
    ({"step": 0}, "step is 0, must be positive"),
    ({"step": WIDTH - 1}, "step is 11 bytes, but a row of 12 pixels mono8 takes 12"),
    ({"encoding": "rgb8"}, "step is 12 bytes, but a row of 12 pixels rgb8 takes 36"),
    ({"step": WIDTH + 1}, "data has 120 bytes, but step 13 x height 10 makes 130"),
    ({"height": HEIGHT + 1}, "data has 120 bytes, but step 12 x height 11 makes 132"),
    ({"height": HEIGHT - 1}, "data has 120 bytes, but step 12 x height 9 makes 108"),
    ({"height": 2**40}, "data has 120 bytes"),
    ({"data": b""}, "data has 0 bytes"),
    ({"data": None}, "data is a NoneType"),
    ({"data": [1, 2, 3]}, "data is a list"),
    ({"data": np.zeros((HEIGHT, 2 * WIDTH), np.uint8)[:, ::2]}, "data is an array with gaps"),
    ({"encoding": "mono16", "width": 6, "depth_bits": 7}, "depth_bits is 7"),
    ({"encoding": "bayer_rggb8", "width": 2, "height": 60, "step": 2}, "height x width is 60 x 2, too small"),
])
def test_a_wrong_field_is_named(change: dict[str, object], message: str) -> None:
    fields = {"data": bytes(HEIGHT * WIDTH), "height": HEIGHT, "width": WIDTH, "encoding": "mono8", "step": WIDTH}
    with pytest.raises(ImageError, match=message):
        decode_image(**{**fields, **change})


@pytest.mark.parametrize("extension, tolerance", [(".png", 0), (".jpg", 4)])
def test_compressed_images(extension: str, tolerance: int) -> None:
    smooth = np.tile(np.linspace(40, 200, 32, dtype=np.uint8), (24, 1))
    data = cv2.imencode(extension, smooth)[1].tobytes()
    decoded = decode_compressed(data)
    assert decoded.dtype == np.uint8 and decoded.shape == (24, 32)
    assert np.abs(decoded.astype(int) - smooth).max() <= tolerance


def test_compressed_colour_becomes_grey() -> None:
    colour = np.full((8, 8, 3), (BLUE, GREEN, RED), np.uint8)
    grey = decode_compressed(cv2.imencode(".png", colour)[1])
    assert np.abs(grey.astype(int) - GREY).max() <= 1  # the PNG library rounds in its own way


def test_jpeg_padded_with_zeros_as_some_cameras_do() -> None:
    data = cv2.imencode(".jpg", ramp())[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(data + bytes(64)), decode_compressed(data))


def test_what_cameras_put_behind_a_jpeg_is_no_part_of_it() -> None:
    data = cv2.imencode(".jpg", ramp())[1].tobytes()
    tail = b"a film\xff\xda with a scan of its own, and no end"
    np.testing.assert_array_equal(decode_compressed(data + tail), decode_compressed(data))


@pytest.mark.parametrize("colour", [False, True])
def test_depth_of_compressed_images(colour: bool) -> None:
    """As of raw ones: a camera of 12 bits leaves the upper four of its 16 at zero."""
    values = np.array([[0, 15, 16, 0x800, 0xFFF, 0xFFFF]], np.uint16).repeat(8, 0)
    stored = values[..., None].repeat(3, -1) if colour else values
    data = cv2.imencode(".png", stored)[1]
    assert decode_compressed(data, depth_bits=12)[0].tolist() == [0, 0, 1, 128, 255, 255]
    assert decode_compressed(data)[0].tolist() == [0, 0, 0, 8, 15, 255]
    eight = cv2.imencode(".png", ramp())[1]
    np.testing.assert_array_equal(decode_compressed(eight, depth_bits=12), ramp())


def test_floating_point_pixels_are_named() -> None:
    data = cv2.imencode(".tiff", np.ones((8, 8), np.float32))[1]
    if cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) is not None:
        pytest.skip("this OpenCV converts them")
    with pytest.raises(ImageError, match="image of float32 pixels, must be uint8 or uint16"):
        decode_compressed(data)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_cut_short(extension: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    data = cv2.imencode(extension, noise)[1].tobytes()
    with pytest.raises(ImageError, match="data is .*cut short"):
        decode_compressed(data[: int(len(data) * share)])


def test_end_marker_of_a_thumbnail_does_not_hide_the_cut() -> None:
    data = cv2.imencode(".jpg", ramp())[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    with pytest.raises(ImageError, match="JPEG cut short"):
        decode_compressed(data[:2] + thumbnail + data[2:-2])


@pytest.mark.parametrize("data, message", [(b"", "data is empty"), (b"not an image at all", "no image"),
                                           (None, "data is a NoneType")])
def test_compressed_rubbish(data: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_compressed(data)


def test_frame_of_the_right_size_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
    frame = to_frame(image, InputConfig(width=64, height=48), 17, "camera")
    np.testing.assert_array_equal(frame.image, image)
    assert (frame.stamp_ns, frame.frame_id, frame.scale, frame.input_size) == (17, "camera", (1.0, 1.0), (64, 48))


@pytest.mark.parametrize("size, config, expected", [
    ((1280, 720), (640, 480), (640, 480)),
    ((320, 240), (640, 480), (640, 480)),
    ((101, 99), (0, 0), (104, 96)),
    ((100, 100), (0, 0), (104, 104)),
    ((3, 2), (0, 0), (8, 8)),
    ((640, 480), (500, 0), (504, 480)),
])
def test_frame_sizes(size: tuple[int, int], config: tuple[int, int], expected: tuple[int, int]) -> None:
    frame = to_frame(np.zeros(size[::-1], np.uint8), InputConfig(*config))
    assert frame.image.shape[::-1] == expected
    assert frame.scale == (size[0] / expected[0], size[1] / expected[1])
    assert frame.input_size == size


@pytest.mark.parametrize("config", [(64, 48), (200, 150), (320, 240)])
def test_scale_leads_back_to_input_pixels(config: tuple[int, int]) -> None:
    """The centre of a blob, found in the frame, is where it was in the input."""
    y, x = np.mgrid[:96, :128]
    image = np.round(200 * np.exp(-((x - 70.3) ** 2 + (y - 41.6) ** 2) / (2 * 6.0**2))).astype(np.uint8)
    frame = to_frame(image, InputConfig(*config))
    weight = frame.image.astype(float)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    np.testing.assert_allclose((centre + 0.5) * frame.scale - 0.5, [70.3, 41.6], atol=0.05)


def test_a_side_that_shrinks_is_averaged_though_the_other_grows() -> None:
    stripes = np.zeros((40, 600), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(to_frame(stripes, InputConfig(200, 80)).image.astype(int) - 100).max() <= 34  # 67 or 133, never 0 or 200
    assert to_frame(stripes.T.copy(), InputConfig(80, 200)).image.std() < 40


def test_a_frame_outlives_its_buffer() -> None:
    buffer = np.full((48, 64), 7, np.uint8)
    frame = to_frame(buffer, InputConfig(0, 0))
    buffer[:] = 99
    assert (frame.image == 7).all()


def test_frame_of_colour_and_of_a_strided_view() -> None:
    colour = np.full((16, 16, 3), (BLUE, GREEN, RED), np.uint8)
    assert (to_frame(colour, InputConfig(0, 0)).image == GREY).all()
    view = np.zeros((16, 20), np.uint8)[:, :16]
    assert to_frame(view, InputConfig(0, 0)).image.flags.c_contiguous


@pytest.mark.parametrize("image, message", [
    (np.zeros((0, 8), np.uint8), r"shape \(0, 8\), must not be empty"),
    (np.zeros((8, 0, 3), np.uint8), "must not be empty"),
    (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\), must be"),
    (np.zeros(8, np.uint8), r"shape \(8,\), must be"),
    (np.zeros((8, 8), np.float32), "type float32, must be a uint8"),
    ([[0]], "type list"),
])
def test_frame_of_no_image(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_frame(image, InputConfig())
