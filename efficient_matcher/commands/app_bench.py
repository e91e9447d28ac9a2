"""`bench` and its parts: arguments to a call, nothing more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.options import (BundleOption, ConfigOption, JsonOption, SetOption, ThreadsOption,
                                                XFeatOption, settings_of)

bench = typer.Typer(invoke_without_command=True, help="Time a tracked frame, stage by stage, interleaved with dense "
                    "PyTorch, SIFT and ORB on the same threads; or, with a subcommand, one side of it.")


class Rival(str, Enum):
    """What the bundle is timed against."""

    dense_torch = "dense_torch"
    sift = "sift"
    orb = "orb"


class Backend(str, Enum):
    """CPU runtimes."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"
    auto = "auto"


class Table(str, Enum):
    """Tables of `bench scaling`."""

    keypoints = "keypoints"
    resolution = "resolution"
    threads = "threads"
    cameras = "cameras"
    backend = "backend"
    overlap = "overlap"


BackendOption = Annotated[Optional[Backend], typer.Option(
    "--backend", help="CPU runtime. [dim]default: onnxruntime[/dim]")]


@bench.callback()
def frame(
    context: typer.Context,
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR|BAG", help="Frames of one camera. [dim]default: a synthetic view[/dim]")] = None,
    topic: Annotated[Optional[str], typer.Option("--topic", help="Image topic of the bag.")] = None,
    rival: Annotated[Optional[List[Rival]], typer.Option(
        "--rival", help="May be repeated. [dim]default: all[/dim]")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="No rivals, as for a long run.")] = False,
    xfeat: XFeatOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each contestant.")] = 10,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames timed a turn.")] = 10,
    dense_frames: Annotated[int, typer.Option("--dense-frames", min=1, help="The same, of the dense networks.")] = 2,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Fresh processes, for the first result.")] = 3,
    backend: BackendOption = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Time a tracked frame, stage by stage, interleaved with dense PyTorch, SIFT and ORB on the same threads."""
    if context.invoked_subcommand is not None:
        return
    from efficient_matcher.commands import bench as command
    rivals = () if alone else tuple(entry.value for entry in rival or Rival)
    command.run(config=settings_of(config, set_, bundle, threads, model__backend=backend and backend.value),
                images=images, topic=topic, json=json, rivals=rivals, rounds=rounds, frames=frames,
                dense_frames=dense_frames, starts=starts, xfeat=xfeat)


@bench.command()
def scaling(
    table: Annotated[Optional[List[Table]], typer.Option(
        "--table", help="May be repeated. [dim]default: all[/dim]")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each variant.")] = 8,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames timed a turn.")] = 6,
    plot: Annotated[Optional[Path], typer.Option("--plot", metavar="PNG", help="Draw the tables.")] = None,
    backend: BackendOption = None,
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """How the time of a frame grows: keypoints, resolution, threads, cameras; and backends and overlapping compared."""
    from efficient_matcher.commands import bench_scaling as command
    command.run(config=settings_of(config, set_, bundle, threads, model__backend=backend and backend.value),
                names=[entry.value for entry in table or ()], rounds=rounds, frames=frames, json=json, plot=plot)


@bench.command()
def roofline(
    bundle: BundleOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Operations and bytes of each network, what this machine could do, and what is reached of it."""
    from efficient_matcher.commands import bench_roofline as command
    command.run(config=settings_of(config, set_, bundle, threads), json=json)
