"""`efficient-matcher info`: what a bundle is, after checking that it is what it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.core import native
from efficient_matcher.core.bundle import VARIANT_NAMES, load_bundle
from efficient_matcher.files import write_json
from efficient_matcher.records import ModelCard

EARLIER_RUNS = "begun_with"


def run(bundle: str, json: Path | None = None) -> dict[str, Any]:
    """Check a bundle's files against its card and print the card; returns what --json writes.

    Raises BundleError naming file and field.
    """
    loaded = load_bundle(bundle)
    sizes = _sizes(loaded.card, loaded.path)
    report = {"bundle": str(loaded.path), "card": asdict(loaded.card), "bytes": sizes,
              "total_bytes": sum(sizes.values()),
              "inner_loops": native.kind(), "variants": {kind: path.name for kind, path in loaded.variants.items()}}
    if json is not None:
        write_json(json, report)
    print_table("bundle, its files as the card says",
                [*card_rows(loaded.card, loaded.path), ("inner loops here", native.kind())])
    return report


def card_rows(card: ModelCard, folder: Path) -> list[tuple[str, str]]:
    """The card of the bundle in `folder` as rows of a table."""
    rows = {"folder": str(folder), "name": card.name, "format": str(card.format_version), "licence": card.licence}
    sizes = _sizes(card, folder)
    for name, digest in card.files.items():
        rows[name] = f"{sizes[name] / 2**20:.2f} MiB, SHA-256 {digest}"
    rows["all files"] = f"{sum(sizes.values()) / 2**20:.2f} MiB"
    for kind, name in VARIANT_NAMES.items():
        if name in card.files:
            rows[f"extractor on {kind}"] = name
    rows.update(_flat("extractor", card.extractor))
    rows.update(_flat("matcher", card.matcher))
    rows["input size"] = f"{card.input_size[0]} x {card.input_size[1]} px"
    rows["max keypoints"] = str(card.max_keypoints)
    for section in ("preprocessing", "measured", "training"):
        rows.update(_flat(section, getattr(card, section)))
    return list(rows.items())


def _sizes(card: ModelCard, folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in card.files}


def _flat(prefix: str, value: Any) -> dict[str, str]:
    """Nested mappings as rows named `prefix key key`, but for the runs before the last, which --json has."""
    if isinstance(value, dict):
        rows: dict[str, str] = {}
        for key, entry in value.items():
            if key != EARLIER_RUNS:
                rows.update(_flat(f"{prefix} {key}", entry))
        return rows
    if isinstance(value, (list, tuple)):
        return {prefix: ", ".join(str(entry) for entry in value)}
    return {prefix: f"{value:.3g}" if isinstance(value, float) else str(value)}
