"""`efficient-matcher export`: weight files to a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.info import card_rows
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_json


@dataclass(frozen=True)
class ExportOptions:
    """superpoint, superglue: weight files; out: folder of the bundle; name: of the bundle, default the folder's.

    licence: of the weights, needed where the files do not say it; measured: JSON file of figures for the card.
    """

    superpoint: Path
    superglue: Path
    out: Path
    name: str | None = None
    licence: str | None = None
    measured: Path | None = None
    json: Path | None = None


def run(options: ExportOptions) -> dict[str, Any]:
    """Write the bundle, print its card; returns what --json writes. Raises MatcherError."""
    from efficient_matcher.learn.export import write_bundle
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    superpoint, superglue = load_superpoint(options.superpoint), load_superglue(options.superglue)
    card = write_bundle(options.out, superpoint, superglue, card_fields(options))
    report = {"bundle": str(options.out), "card": asdict(card)}
    if options.json is not None:
        write_json(options.json, report)
    print_table("exported", card_rows(card, options.out))
    return report


def card_fields(options: ExportOptions) -> Any:
    """What the card will say beyond the networks, as `CardFields`. Raises MatcherError."""
    from efficient_matcher.learn.export import CardFields
    from efficient_matcher.learn.weights import read_weights
    files = {"superpoint": options.superpoint, "superglue": options.superglue}
    notes = {part: read_weights(path).notes for part, path in files.items()}
    training = {part: _brief(notes[part].get("training", {"weights": path.name})) for part, path in files.items()}
    return CardFields(name=options.name or options.out.resolve().name, training=training,
                      licence=_licence(options, files, notes), measured=_measured(options.measured))


def _brief(training: dict[str, Any]) -> dict[str, Any]:
    """What a weight file says of its training, without the recipes of the runs that it began with: the file keeps those,
    and a card is read when a node starts."""
    begun = training.get("begun_with")
    if not isinstance(begun, dict):
        return training
    return {**training, "begun_with": _brief({key: value for key, value in begun.items() if key != "recipe"})}


def _measured(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MatcherError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise MatcherError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MatcherError(f"{path}: is not a mapping of figures")
    return value


def _licence(options: ExportOptions, files: dict[str, Path], notes: dict[str, dict[str, Any]]) -> str:
    """The licence given, or else the one both files agree on."""
    if options.licence:
        return options.licence
    for part, path in files.items():
        if not notes[part].get("licence"):
            raise MatcherError(f"{path}: does not say its licence; give it with --licence")
    stated = [str(entry["licence"]) for entry in notes.values()]
    return stated[0] if stated[0] == stated[1] else " and ".join(stated)
