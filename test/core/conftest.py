"""Both forms of the inner loops: tests marked with `kernels` run on numpy and, where it was built, on the library."""

from __future__ import annotations

import pytest

from efficient_matcher.core import native


@pytest.fixture(params=["numpy", "compiled"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of them runs."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "_library", None)
    elif not native.available():
        pytest.skip("the inner loops were not compiled")
    return request.param
