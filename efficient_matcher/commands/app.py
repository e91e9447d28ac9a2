"""Subcommands: arguments to a call, nothing more. Heavy imports are inside, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional  # typer evaluates these on every Python we support

import typer
from typer.core import TyperGroup

from efficient_matcher.commands import app_bench, app_compress, app_evaluate, app_models, app_pose, app_quantize
from efficient_matcher.commands.options import (BundleOption, ConfigOption, JsonOption, OverwriteOption, SetOption,
                                                ThreadsOption, settings_of)
from efficient_matcher.errors import MatcherError

RESUMED = ("train", "finetune", "sensitivity")  # their runs keep what was done


class _Group(TyperGroup):
    """Commands with one line for each failure that is expected."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _one_line_failures():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _one_line_failures(lambda: ctx.invoked_subcommand in RESUMED):
            return super().invoke(ctx)


@contextmanager
def _one_line_failures(goes_on: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Expected failures are one line and exit 1; an interrupt is one line and exit 130. goes_on: whether what was
    interrupted begins again where it ended."""
    try:
        yield
    except MatcherError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except BrokenPipeError:
        raise  # whoever read the output went away; typer keeps quiet about it
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted" + ("; the same command goes on" if goes_on() else ""), file=sys.stderr)
        raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Feature matching in real time on a robot's CPU: replay recordings, match images, measure, train.")


class Mode(str, Enum):
    """Which earlier frame each frame is matched with."""

    sequential = "sequential"
    keyframe = "keyframe"


class Storage(str, Enum):
    """Storage of a rosbag2 bag."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(metavar="BAG", help="rosbag2 folder, .mcap, .db3, or a ROS 1 .bag.")],
    topic: Annotated[Optional[str], typer.Option("--topic", help="Image topic; needed when there are several.")] = None,
    out: Annotated[Optional[Path], typer.Option(
        "--out", metavar="DIR", help="Folder of the results. [dim]default: <bag>-matches[/dim]")] = None,
    mode: Annotated[Optional[Mode], typer.Option("--mode", help="Match with the previous frame or a keyframe.")] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Read only so many images.")] = None,
    video: Annotated[bool, typer.Option("--video/--no-video", help="Annotated video, or a strip of pairs.")] = True,
    poses: Annotated[bool, typer.Option("--poses", help="Write relative poses too; needs the bag's camera_info.")] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Run a recorded bag through the pipeline of the live node.

    Writes a bag of matches and homographies, summary.json, and video.mp4 or strip.png. Ctrl-C leaves them complete.
    """
    from efficient_matcher.commands import replay as command
    settings = settings_of(config, set_, bundle, threads, track__mode=None if mode is None else mode.value)
    options = command.ReplayOptions(bag, topic, out, settings, json, video, limit, overwrite, poses)
    _exit_if_stopped(command.run(options))


@app.command()
def live(
    image: Annotated[str, typer.Option("--image", metavar="TOPIC", help="Image topic, raw or its /compressed.")],
    camera_info: Annotated[Optional[str], typer.Option(
        "--camera-info", metavar="TOPIC", help="CameraInfo topic. [dim]default: beside the image topic[/dim]")] = None,
    name: Annotated[str, typer.Option(
        "--name", help="Name of the node, with its namespace if any.")] = "efficient_matcher",
    domain: Annotated[Optional[int], typer.Option(
        "--domain", min=0, max=232, help="DDS domain. [dim]default: ROS_DOMAIN_ID[/dim]")] = None,
    mode: Annotated[Optional[Mode], typer.Option("--mode", help="Match with the previous frame or a keyframe.")] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    seconds: Annotated[Optional[float], typer.Option("--seconds", min=0.1, help="Stop after so long.")] = None,
    json: JsonOption = None,
) -> None:
    """Run the node on a machine without ROS: subscribe to a camera and publish matches over plain DDS. Experimental.

    Ctrl-C ends it and prints the table. Finds nodes as ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE say.
    """
    from efficient_matcher.commands import live as command
    settings = settings_of(config, set_, bundle, threads, track__mode=None if mode is None else mode.value)
    command.run(command.LiveOptions(image, camera_info, name, domain, settings, json, seconds))


@app.command()
def match(
    image0: Annotated[Path, typer.Argument(metavar="A", help="Reference image file.")],
    image1: Annotated[Path, typer.Argument(metavar="B", help="Current image file.")],
    out: Annotated[Optional[Path], typer.Option("--out", metavar="PNG", help="Draw the matches side by side.")] = None,
    focal: Annotated[Optional[float], typer.Option("--focal", metavar="PX", min=1.0, help=(
        "Focal length of both images: print the relative pose too."))] = None,
    camera_info: Annotated[Optional[Path], typer.Option("--camera-info", metavar="YAML", help=(
        "Calibration of the camera of both, as ROS stores it: print the relative pose too."))] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Match two image files; print the homography from A to B."""
    from efficient_matcher.commands import match as command
    settings = settings_of(config, set_, bundle, threads)
    command.run(command.MatchOptions(image0, image1, out, json, settings, focal_px=focal,
                                     camera_info=camera_info))


@app.command("match-pairs")
def match_pairs(
    list_: Annotated[Path, typer.Argument(metavar="LIST", help="Text file, a line `name0 name1` a pair.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of features.h5 and matches.h5.")],
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR", help="Folder of the images. [dim]default: images beside LIST[/dim]")] = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Match a list of image pairs for structure from motion, into files as hloc reads them.

    The same command goes on with what an interrupted one has left.
    """
    from efficient_matcher.commands import match_pairs as command
    settings = settings_of(config, set_, bundle, threads)
    _exit_if_stopped(command.run(command.MatchPairsOptions(list_, out, images, settings, overwrite, json)))


@app.command("make-bag")
def make_bag(
    source: Annotated[Path, typer.Argument(
        metavar="FOLDER|VIDEO", help="Images, whose numeric file names become their stamps, or a video file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The bag's folder, which must not exist yet.")],
    storage: Annotated[Storage, typer.Option("--storage", help="Storage of the bag.")] = Storage.mcap,
    compressed: Annotated[bool, typer.Option("--compressed/--raw", help="JPEG CompressedImage, or raw Image.")] = False,
    topic: Annotated[str, typer.Option("--topic", help="Image topic.")] = "/camera/image_raw",
    frame_id: Annotated[str, typer.Option("--frame-id", help="frame_id of the images.")] = "camera",
    hz: Annotated[Optional[float], typer.Option(
        "--hz", min=0.001, max=100000.0, metavar="HZ", help="Images a second, in place of what names or video say.")] = None,
    camera_info: Annotated[Optional[Path], typer.Option(
        "--camera-info", metavar="YAML", help="Calibration as ROS stores it, for CameraInfo beside each image.")] = None,
) -> None:
    """Make a bag of a folder of images or of a video, to replay pictures that never were a recording."""
    from efficient_matcher.commands import make_bag as command
    command.run(source, out, topic=topic, frame_id=frame_id, storage=storage.value, compressed=compressed, hz=hz,
                camera_info=camera_info)


@app.command("dump-config")
def dump_config(
    config: ConfigOption = None,
    set_: SetOption = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="FILE", help="Write there, do not print.")] = None,
) -> None:
    """Print every setting in force, with unit, range and description, as YAML that --config reads."""
    from efficient_matcher.commands import dump_config as command
    command.run(settings_of(config, set_), out)


@app.command()
def info(
    bundle: Annotated[str, typer.Argument(metavar="NAME|PATH", help="Model bundle.")] = "default",
    json: JsonOption = None,
) -> None:
    """Check a bundle's files and print what it says of itself."""
    from efficient_matcher.commands import info as command
    command.run(bundle, json)


@app.command()
def fetch_weights(
    names: Annotated[Optional[list[str]], typer.Argument(
        metavar="[NAME]...", help="What to fetch; without, only say what there is.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the files.")] = Path("published"),
    accept_licence: Annotated[bool, typer.Option(
        "--accept-licence", help="Accept their licences, which are printed, without being asked.")] = False,
    json: JsonOption = None,
) -> None:
    """Fetch weight files that others publish: the official networks, for research only, and XFeat's.

    Shows the licence first. None of them come with this package.
    """
    from efficient_matcher.commands import fetch_weights as command
    ask = typer.confirm if sys.stdin is not None and sys.stdin.isatty() else None
    command.run(command.FetchOptions(names or [], out, accept_licence, ask, json))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("demo-out"),
    frames: Annotated[int, typer.Option(
        "--frames", min=2, max=10000, help="Frames per photograph; fewer make the camera faster.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another camera path and noise.")] = 0,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Record a camera over real photographs, replay it, and hold the results against the truth."""
    from efficient_matcher.commands import demo as command
    settings = settings_of(config, set_, bundle, threads)
    _exit_if_stopped(command.run(command.DemoOptions(out, frames, seed, settings, json, overwrite)))


def _exit_if_stopped(finished: bool) -> None:
    if not finished:
        print("interrupted; what was written is complete", file=sys.stderr)
        raise typer.Exit(130)


app.command()(app_models.export)
app.add_typer(app_models.train, name="train")
app.command()(app_compress.prune)
app.add_typer(app_compress.finetune, name="finetune")
app.command()(app_quantize.quantize)
app.command()(app_quantize.pack)
app.command()(app_quantize.unpack)
app.command()(app_quantize.sensitivity)
app.add_typer(app_quantize.report, name="report")
app.add_typer(app_models.evaluate, name="evaluate")
app.add_typer(app_bench.bench, name="bench")
app.command("make-pairs")(app_evaluate.make_pairs)
app.command("make-scenes")(app_pose.make_scenes)
