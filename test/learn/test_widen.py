"""A wider extractor: the same answers at first, other ones once it has learned."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.learn.channels import PruneError, sizes  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.widen import widened  # noqa: E402

CONFIG = SuperPointConfig((4, 4, 8, 8, 8, 8, 8, 8), 8, 8, 8, True, 4)
WIDER = {"1a": 6, "1b": 8, "2b": 12, "4a": 16, "4b": 10, "Pa": 12, "Da": 16, "location": 8}


@pytest.fixture()
def network() -> SuperPoint:
    torch.manual_seed(3)
    made = SuperPoint(CONFIG)
    for _ in range(3):  # the batch norms have seen something
        made(torch.rand(2, 1, 32, 40))
    return made.eval()


def test_it_answers_as_the_narrow_one_does(network: SuperPoint) -> None:
    wide = widened(network, WIDER)
    assert {name: size for name, size in sizes(wide).items() if name in WIDER} == WIDER
    assert sizes(wide)["2a"] == sizes(network)["2a"]
    image = torch.rand(1, 1, 48, 64)
    for own, before in zip(wide(image), network(image)):
        torch.testing.assert_close(own, before, atol=1e-5, rtol=1e-5)


def test_new_channels_learn(network: SuperPoint) -> None:
    wide = widened(network, WIDER).train()
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    for _ in range(3):  # what nothing reads has no gradient at first
        optimizer.zero_grad()
        logits, descriptors = wide(torch.rand(2, 1, 32, 40))
        (logits.square().mean() + descriptors.square().mean()).backward()
        optimizer.step()
    assert wide.conv4a.weight.grad[len(network.conv4a.weight):].abs().sum() > 0
    assert wide.conv4b.weight[:8, 8:].abs().max() > 0


def test_what_would_be_narrower_is_named(network: SuperPoint) -> None:
    with pytest.raises(PruneError, match="wider: 4a: 4 is less than the 8 there are"):
        widened(network, {"4a": 4})
    with pytest.raises(PruneError, match="wider: unknown layer '5a'"):
        widened(network, {"5a": 4})
