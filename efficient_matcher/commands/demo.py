"""`demo`: record a camera over real photographs, replay the recording, hold the results against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher import demo
from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.replay import ReplayOptions, replay
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import load_bundle
from efficient_matcher.core.geometry import corner_error, warp_points
from efficient_matcher.demo import FrameTruth
from efficient_matcher.draw import draw_matches, strip
from efficient_matcher.errors import ConfigError
from efficient_matcher.files import result_folder, write_bytes_atomic, write_json
from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult
from efficient_matcher.sources.bag_writer import write_image_bag
from efficient_matcher.sources.bags import ImageBag
from efficient_matcher.stopping import StopSignals

CAMERA_BAG, TRUTH_NAME, REPLAY_FOLDER = "camera", "truth.json", "replay"
PICTURE_NAME, REPORT_NAME = "matches.jpg", "report.json"
PICTURE_SCALE = 0.6  # fits a page and its file size, captions still legible
CORRECT_PX = 3.0  # a match this close to the truth counts as correct


@dataclass(frozen=True)
class DemoOptions:
    """Where the demo writes to, and how long it is: frames per photograph, at least 2."""

    out: Path = Path("demo-out")
    frames: int = 20
    seed: int = 0
    config: Config = Config()
    json: Path | None = None
    overwrite: bool = False


def run(options: DemoOptions) -> bool:
    """Make the demo and print its table; False when stopped by Ctrl-C or SIGTERM. Raises MatcherError."""
    with StopSignals() as stop:
        report = make_demo(options, stop)
    print_table("demo" + (" (stopped)" if report["stopped"] else ""), table_rows(report))
    return not report["stopped"]


def make_demo(options: DemoOptions, stop: StopSignals | None = None) -> dict[str, Any]:
    """Record, replay and score; returns the report that is also written to `report.json`. Raises MatcherError."""
    contents = (CAMERA_BAG, TRUTH_NAME, REPLAY_FOLDER, PICTURE_NAME, REPORT_NAME)
    if options.config.track.mode != "sequential":
        raise ConfigError(f"the demo's truth is from each frame to the next, so track.mode must be sequential, "
                          f"not {options.config.track.mode}")
    load_bundle(options.config.model.bundle)  # before an earlier demo is removed for one that cannot run
    folder = result_folder(options.out, contents, options.overwrite)
    truths = record(folder, options.frames, options.seed)
    replayed = replay(ReplayOptions(bag=folder / CAMERA_BAG, out=folder / REPLAY_FOLDER, config=options.config), stop)
    answers = read_answers(replayed["outputs"]["bag"])
    done = truths if not replayed["stopped"] else truths[:replayed["frames"]["processed"]]
    write_bytes_atomic(folder / PICTURE_NAME, draw_middle_pairs(folder / CAMERA_BAG, done, answers))
    report = {
        "command": "demo", "frames": len(done), "seed": options.seed, "stopped": replayed["stopped"],
        "bundle": replayed["bundle"], "accuracy": score(done, answers, demo.SIZE),
        "latency_ms": replayed["latency_ms"], "config": replayed["config"],
        "outputs": {"camera": folder / CAMERA_BAG, "truth": folder / TRUTH_NAME, **replayed["outputs"],
                    "matches": folder / PICTURE_NAME, "report": folder / REPORT_NAME},
    }
    for path in filter(None, (folder / REPORT_NAME, options.json)):
        write_json(path, report)
    return report


def table_rows(report: dict[str, Any]) -> dict[str, str]:
    """The report as rows of a table."""
    accuracy, total = report["accuracy"], report["latency_ms"].get("total")
    changes, correct = accuracy["scene_changes"], accuracy["correct_matches_percent"]
    rows = {
        "model": report["bundle"]["name"],
        "pairs": f"{accuracy['pairs']}, of them valid {accuracy['valid']}",
        "corner error px": _row(accuracy["corner_error_px"]),
        **{f"  {photo}": _row(errors) for photo, errors in accuracy["corner_error_px_by_photo"].items()},
        f"matches within {CORRECT_PX:g} px": "-" if correct is None else f"{correct:.1f} %",
        "inliers": f"median {accuracy['inliers_median']:.0f}",
        "scene changes": f"{changes['pairs']}, wrongly called valid {changes['wrongly_valid']}; in no error above",
    }
    if total:
        rows["speed"] = f"median {total['median']:.1f} ms a frame ({1000 / total['median']:.1f} a second)"
    rows.update({f"-> {name}": str(path) for name, path in report["outputs"].items() if path})
    return rows


@dataclass(frozen=True)
class Answer:
    """What the replay wrote about one frame: rows of `~/matches` [K] and the row of `~/homography`."""

    matches: NDArray[np.void]
    homography: NDArray[np.void]

    @property
    def matrix(self) -> NDArray[np.float64] | None:
        """H_previous_to_current [3,3], or None where the replay found none."""
        return self.homography["H"].reshape(3, 3) if self.homography["valid"] else None


def record(folder: Path, frames_per_photo: int, seed: int = 0) -> list[FrameTruth]:
    """Write the camera's bag and `truth.json` into `folder`; returns the truth of every frame.

    Raises SourceError when the photographs are not there, MatcherError when the bag cannot be written.
    """
    truths: list[FrameTruth] = []

    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        clips = demo.make_clips(demo.load_photos(), seed=seed)
        for image, truth in demo.render_clips(clips, frames_per_photo, seed):
            truths.append(truth)
            yield truth.stamp_ns, image

    write_image_bag(folder / CAMERA_BAG, images(), topic=demo.TOPIC, frame_id=demo.FRAME_ID)
    write_json(folder / TRUTH_NAME,
               {"topic": demo.TOPIC, "size": demo.SIZE, "frames": [asdict(truth) for truth in truths]})
    return truths


def read_answers(bag: Path) -> dict[int, Answer]:
    """The results in a replay's bag, by the stamp (ns) of their image."""
    from rosbags.highlevel import AnyReader

    from efficient_matcher.ros.messages import stamp_ns, unpack_homography, unpack_matches
    clouds: dict[str, dict[int, NDArray[np.void]]] = {"matches": {}, "homography": {}}
    unpack = {"matches": unpack_matches, "homography": unpack_homography}
    with AnyReader([bag]) as reader:
        for connection, _, raw in reader.messages():
            kind = connection.topic.rsplit("/", 1)[-1]
            if kind in clouds:
                message = reader.deserialize(raw, connection.msgtype)
                clouds[kind][stamp_ns(message.header)] = unpack[kind](message)
    return {stamp: Answer(clouds["matches"][stamp], rows[0]) for stamp, rows in clouds["homography"].items()}


def score(truths: Sequence[FrameTruth], answers: Mapping[int, Answer], size: tuple[int, int]) -> dict[str, Any]:
    """How far the answers are from the truth.

    A pair is a frame and the one before it. One without an answer has an infinite corner error. Where
    the photograph changes there is no true homography: those pairs are left out of all errors and
    counted apart, with how many of them were wrongly called valid. size: (width, height) px.
    """
    followed = [truth for truth in truths if truth.H_previous_to_current is not None]
    errors = np.array([_corner_error(truth, answers.get(truth.stamp_ns), size) for truth in followed])
    distances = [_match_errors(truth, answers[truth.stamp_ns]) for truth in followed if truth.stamp_ns in answers]
    changes = [truth for truth in truths if truth.scene_change]
    photos = dict.fromkeys(truth.photo for truth in followed)
    return {
        "pairs": len(followed), "valid": int(np.isfinite(errors).sum()),
        "corner_error_px": _percentiles(errors),
        "corner_error_px_by_photo": {
            photo: _percentiles(errors[[truth.photo == photo for truth in followed]]) for photo in photos},
        "correct_matches_percent": _percent(np.concatenate(distances or [np.zeros(0)]) <= CORRECT_PX),
        "inliers_median": float(np.median([answers[truth.stamp_ns].homography["n_inliers"] for truth in followed
                                           if truth.stamp_ns in answers] or [0])),
        "scene_changes": {"pairs": len(changes), "wrongly_valid": sum(
            truth.stamp_ns in answers and answers[truth.stamp_ns].matrix is not None for truth in changes)},
    }


def draw_middle_pairs(camera: Path, truths: Sequence[FrameTruth], answers: Mapping[int, Answer]) -> bytes:
    """A JPEG of the middle pair of each photograph, so that nobody chose the good ones.

    camera: the bag the answers are about. Raises SourceError when it cannot be read.
    """
    chosen = _middle_stamps(truths)
    pictures = []
    with ImageBag(camera) as bag:
        previous: Frame | None = None
        for item in bag.frames(Config().input):
            answer = answers.get(item.frame.stamp_ns)
            if item.frame.stamp_ns in chosen and answer is not None and previous is not None:
                pictures.append(draw_matches(_pair(previous, item.frame, answer)))
            previous = item.frame
    sheet = strip(pictures or [np.zeros((demo.SIZE[1], demo.SIZE[0], 3), np.uint8)], columns=2)
    page = cv2.resize(sheet, None, fx=PICTURE_SCALE, fy=PICTURE_SCALE, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _middle_stamps(truths: Sequence[FrameTruth]) -> set[int]:
    by_photo: dict[str, list[int]] = {}
    for truth in truths:
        if truth.H_previous_to_current is not None:
            by_photo.setdefault(truth.photo, []).append(truth.stamp_ns)
    return {stamps[len(stamps) // 2] for stamps in by_photo.values()}


def _pair(frame0: Frame, frame1: Frame, answer: Answer) -> PairResult:
    """The answer as the record that pictures are drawn from; features that were not matched are not in a bag."""
    rows = answer.matches
    points0, points1 = _points(rows, 0), _points(rows, 1)
    none = np.zeros((len(rows), 0), np.float32)
    features = [Features(points.astype(np.float32), rows["score"], none, demo.SIZE) for points in (points0, points1)]
    matches = Matches(np.repeat(np.arange(len(rows), dtype=np.int32)[:, None], 2, axis=1), rows["score"])
    homography = Homography(answer.matrix, rows["inlier"].astype(bool), np.full((8, 8), np.nan),
                            float(answer.homography["rmse_px"]))
    return PairResult(*features, matches, homography, frame0=frame0, frame1=frame1)


def _corner_error(truth: FrameTruth, answer: Answer | None, size: tuple[int, int]) -> float:
    if answer is None or answer.matrix is None:
        return float("inf")
    return corner_error(answer.matrix, truth.H_previous_to_current, size)


def _match_errors(truth: FrameTruth, answer: Answer) -> NDArray[np.float64]:
    """Distance [K] px of each match from where the truth puts it."""
    points0, points1 = _points(answer.matches, 0), _points(answer.matches, 1)
    return np.linalg.norm(warp_points(points0, truth.H_previous_to_current) - points1, axis=1)


def _points(rows: NDArray[np.void], side: int) -> NDArray[np.float64]:
    return np.stack([rows[f"u{side}"], rows[f"v{side}"]], axis=-1).astype(np.float64)


def _percentiles(errors: NDArray[np.float64]) -> dict[str, float]:
    if not len(errors):  # stopped before the second frame
        return dict.fromkeys(("median", "p90", "worst"), float("nan"))
    # No interpolation: between a number and the infinite error of a failed pair there is nothing.
    median, p90, worst = np.percentile(errors, (50, 90, 100), method="higher").tolist()
    return {"median": median, "p90": p90, "worst": worst}


def _percent(flags: NDArray[np.bool_]) -> float | None:
    return 100 * float(flags.mean()) if len(flags) else None


def _row(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())
