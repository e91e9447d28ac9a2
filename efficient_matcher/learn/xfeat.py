"""XFeat, the rival of the CPU: network and extraction, to be measured beside ours with the weights its authors publish.

Potje, Cadar, Araujo, Martins, Nascimento, "XFeat: Accelerated Features for Lightweight Image Matching", CVPR 2024,
sections 3.1 and 3.2; parameters go by the names of its published files. Nothing of it is trained or shipped here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from efficient_matcher.core.matches import no_matches
from efficient_matcher.errors import ImageError
from efficient_matcher.learn.weights import check_tensors, read_weights
from efficient_matcher.records import Features, Matches

SIDE = 32  # sides are brought to multiples of this many pixels
CELL = 8
PEAK_SIZE = 5  # pixels of the window in which a keypoint is the highest
LOWEST_SCORE = 0.05  # of a pixel, to be a keypoint

Answers = tuple[Tensor, Tensor, Tensor]  # descriptors [1,64,h,w], logits [1,65,h,w], reliability [1,1,h,w]; cells


class _Layer(nn.Module):
    """Convolution, normalization without scale and shift, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
                                   nn.BatchNorm2d(outputs, affine=False), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class XFeatNetwork(nn.Module):
    """Grey images [B,1,H,W], sides multiples of 32, to `Answers` at an eighth of the size.

    fine_matcher belongs to the published files, but only to semi-dense matching, which is not done here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4, 4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2))
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, 1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(_Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, 1))
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 1, 1), nn.Sigmoid())
        self.keypoint_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), _Layer(64, 64, 1),
                                           nn.Conv2d(64, 65, 1))
        self.fine_matcher = _fine_matcher()

    def forward(self, images: Tensor) -> Answers:
        normal = self.norm(images)
        quarter = self.block2(self.block1(normal) + self.skip1(normal))
        eighth = self.block3(quarter)
        sixteenth = self.block4(eighth)
        coarser = [F.interpolate(x, eighth.shape[-2:], mode="bilinear") for x in (sixteenth, self.block5(sixteenth))]
        descriptors = self.block_fusion(eighth + coarser[0] + coarser[1])
        return descriptors, self.keypoint_head(F.pixel_unshuffle(normal, CELL)), self.heatmap_head(descriptors)


def _fine_matcher() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (128, 512, 512, 512):
        layers += [nn.Linear(inputs, 512), nn.BatchNorm1d(512, affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 64))


def load_xfeat(path: Path | str) -> XFeatNetwork:
    """The network in evaluation mode, from the published file (`xfeat.pt`), which is read as plain tensors.

    Raises WeightsError naming the file and the first key that is wrong.
    """
    network = XFeatNetwork()
    tensors = read_weights(path).tensors
    expected = network.state_dict()
    # Files that were made anew from graphs lack what sparse matching does not use.
    counted = {key: value for key, value in expected.items() if not _unused(key) or key in tensors}
    check_tensors(Path(path), tensors, counted)
    network.load_state_dict({**expected, **tensors})
    return network.eval()


def _unused(key: str) -> bool:
    return key.startswith("fine_matcher.") or key.endswith("num_batches_tracked")


class XFeatExtractor:
    """Keypoints and descriptors as the paper's sparse setting has them: peaks of 5x5 px above 0.05, scored by
    themselves times reliability, descriptors by bicubic interpolation.

    max_keypoints: the best so many. threads: of all of torch, whose pool would get in the way of the session's where
    `session` has the network run in onnxruntime (which needs `onnx`); it is left with one then.
    """

    def __init__(self, network: XFeatNetwork, max_keypoints: int, threads: int, session: bool = False) -> None:
        torch.set_num_threads(1 if session else threads)
        self._max_keypoints = max_keypoints
        self._run: Callable[[Tensor], Answers] = _Sessions(network, threads) if session else network

    @torch.inference_mode()
    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Of a grey image [H,W]; keypoints in whole pixels, of sides that are multiples of 32. Raises ImageError."""
        height, width = image.shape
        if min(image.shape) < SIDE:
            raise ImageError(f"image: {width}x{height} is too small for XFeat, which needs {SIDE} pixels a side")
        shape = (height // SIDE * SIDE, width // SIDE * SIDE)
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None, None].float()
        resized = pixels if shape == image.shape else F.interpolate(pixels, shape, mode="bilinear")
        descriptors, logits, reliability = self._run(resized)
        points, scores = _peaks(logits, reliability, self._max_keypoints)
        sampled = _sampled(F.normalize(descriptors, dim=1), points, shape, "bicubic")
        scale = torch.tensor([width / shape[1], height / shape[0]])
        return Features((points * scale).numpy(), scores.numpy(), F.normalize(sampled, dim=1).numpy(), (width, height))


@torch.inference_mode()
def mutual_nearest(features0: Features, features1: Features) -> Matches:
    """Keypoints that are each other's nearest by descriptor, best first; the score is the cosine.

    In torch as the rest: a second library's threads, waiting for work, would take the time of this one's.
    """
    if not len(features0) or not len(features1):
        return no_matches()
    cosines = torch.from_numpy(features0.descriptors) @ torch.from_numpy(features1.descriptors).T
    best = cosines.max(dim=1)
    mutual = torch.nonzero(cosines.argmax(dim=0)[best.indices] == torch.arange(len(cosines)))[:, 0]
    index0 = mutual[best.values[mutual].argsort(descending=True)]
    indices = torch.stack([index0, best.indices[index0]], dim=1).int()
    return Matches(indices.numpy(), best.values[index0].clamp(0, 1).numpy())


def _peaks(logits: Tensor, reliability: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best `count` keypoints [N,2], px, and their scores [N], best first."""
    heat = F.pixel_shuffle(logits.softmax(1)[:, :-1], CELL)
    scores = heat[0, 0].numpy()
    highest = cv2.dilate(scores, np.ones((PEAK_SIZE, PEAK_SIZE), np.uint8))
    rows, columns = np.nonzero((scores == highest) & (scores > LOWEST_SCORE))
    points = torch.from_numpy(np.stack([columns, rows], axis=1)).float()
    shape = (heat.shape[-2], heat.shape[-1])
    worth = (_sampled(heat, points, shape, "nearest") * _sampled(reliability, points, shape, "bilinear"))[:, 0]
    best = worth.topk(min(count, len(worth)))
    return points[best.indices], best.values


def _sampled(maps: Tensor, points: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """Values [N,C] of maps [1,C,h,w] at points [N,2] of an image of `shape`, where the published code looks them up."""
    grid = 2 * points / torch.tensor([shape[1] - 1, shape[0] - 1]) - 1
    return F.grid_sample(maps, grid[None, None], mode=mode, align_corners=False)[0, :, 0].T


class _Sessions:
    """The network in onnxruntime, one session a size of images; with that runtime's own options, whose threads spin while
    they wait, which ours may not on a robot: it favours this side."""

    def __init__(self, network: XFeatNetwork, threads: int) -> None:
        self._network, self._threads = network, threads
        self._sessions: dict[torch.Size, Any] = {}

    def __call__(self, images: Tensor) -> Answers:
        if images.shape not in self._sessions:
            self._sessions[images.shape] = self._opened(images)
        answers = self._sessions[images.shape].run(None, {"image": images.numpy()})
        return torch.from_numpy(answers[0]), torch.from_numpy(answers[1]), torch.from_numpy(answers[2])

    def _opened(self, images: Tensor) -> Any:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        content = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the instance's statistics are what is meant
            torch.onnx.export(self._network, (torch.zeros_like(images),), content, input_names=["image"], dynamo=False)
        return onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
