"""`pack` and `unpack`: a bundle with its files entropy-coded, and back to ordinary ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.core.bundle import load_bundle
from efficient_matcher.files import write_json


def run(bundle: str, out: Path, unpack: bool = False, json: Path | None = None) -> dict[str, Any]:
    """Write `bundle` (a name or folder) to the folder `out`, coded or decoded; returns what --json writes.

    Raises MatcherError.
    """
    from efficient_matcher.learn.pack import pack_bundle, stored_bytes, unpack_bundle
    source = load_bundle(bundle).path
    before = _sizes(source)
    (unpack_bundle if unpack else pack_bundle)(source, out)
    after = _sizes(out)
    report = {"bundle": str(source), "out": str(out), "bytes_before": before, "bytes": after,
              "stored_bytes": stored_bytes(out)}
    if json is not None:
        write_json(json, report)
    rows = [(name, f"{before[name]}", f"{after[name]}", f"{100 * after[name] / before[name]:.1f}") for name in after]
    total = sum(before.values()), sum(after.values())
    print_table(str(out), [*rows, ("all", f"{total[0]}", f"{total[1]}", f"{100 * total[1] / total[0]:.1f}")],
                ("bytes before", "bytes", "%"))
    return report


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in load_bundle(folder).card.files}
