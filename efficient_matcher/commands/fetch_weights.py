"""`fetch-weights`: weight files that others publish, each with its licence before the download.

Nothing of them comes with this package, and nothing else in it ever downloads anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from efficient_matcher.commands.common import print_table
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import check_writable, write_bytes_atomic, write_json

TIMEOUT_S = 30.0
LARGEST_BYTES = 256 << 20  # of what a wrong address may send
_PART_BYTES = 1 << 16


@dataclass(frozen=True)
class Published:
    """A file somebody publishes. free: anyone may use it, so that nobody need be asked. use: what reads it here."""

    url: str
    sha256: str
    licence: str
    free: bool
    use: str

    @property
    def file(self) -> str:
        """Its name on disk."""
        return self.url.rpartition("/")[2]


_MAGIC_LEAP = "https://github.com/magicleap/SuperGluePretrainedNetwork/raw/master/"
_RESEARCH = f"Magic Leap, non-commercial research only: {_MAGIC_LEAP}LICENSE"
_COMMANDS = "export, prune, quantize, finetune"
PUBLISHED = {
    "superpoint": Published(f"{_MAGIC_LEAP}models/weights/superpoint_v1.pth",
                            "52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e", _RESEARCH, False,
                            f"--superpoint of {_COMMANDS}"),
    "superglue-outdoor": Published(f"{_MAGIC_LEAP}models/weights/superglue_outdoor.pth",
                                   "2f5f5e9bb3febf07b69df633c4c3ff7a17f8af26a023aae2b9303d22339195bd", _RESEARCH, False,
                                   f"--superglue of {_COMMANDS}"),
    "superglue-indoor": Published(f"{_MAGIC_LEAP}models/weights/superglue_indoor.pth",
                                  "0e710469be25ebe1e2ccf68edcae8b2945b0617c8e7e68412251d9d47f5052b1", _RESEARCH, False,
                                  f"--superglue of {_COMMANDS}"),
    "xfeat": Published("https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt",
                       "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b", "Apache-2.0", True,
                       "--xfeat of evaluate and bench"),
}


@dataclass(frozen=True)
class FetchOptions:
    """names: of PUBLISHED; none: only say what there is. out: folder. accept_licence: answers the question beforehand.
    ask: puts a question to the user; None where there is nobody to ask. json: what the table says."""

    names: Sequence[str] = ()
    out: Path = Path("published")
    accept_licence: bool = False
    ask: Callable[[str], bool] | None = None
    json: Path | None = None


def run(options: FetchOptions) -> list[Path]:
    """Fetch the files, once their licences are accepted, and print the table; returns where they are.

    Raises MatcherError for an unknown name, a licence not accepted, a file that cannot be had or is another than expected.
    """
    if not options.names:
        print_table("published weights", [(name, _told(of.file, of)) for name, of in PUBLISHED.items()])
        return []
    wanted = {name: _known(name) for name in dict.fromkeys(options.names)}
    targets = {name: options.out / of.file for name, of in wanted.items()}
    missing = [name for name in wanted if not _is_there(wanted[name], targets[name])]
    for name in missing:
        check_writable(targets[name])
    _accept({name: wanted[name] for name in missing}, options)
    for name in missing:
        write_bytes_atomic(targets[name], _fetched(wanted[name]))
    if options.json is not None:
        write_json(options.json, {"command": "fetch-weights", "files": {name: {
            "path": targets[name], "sha256": of.sha256, "url": of.url, "licence": of.licence} for name, of in wanted.items()}})
    print_table("published weights", [
        (f"-> {name}", _told(f"{targets[name]}{'' if name in missing else ' (there before)'}", of))
        for name, of in wanted.items()])
    return list(targets.values())


def _told(where: str, published: Published) -> str:
    return f"{where}\n{published.licence}\nfor {published.use}"


def _known(name: str) -> Published:
    if name not in PUBLISHED:
        raise MatcherError(f"unknown weights '{name}', known: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def _is_there(published: Published, path: Path) -> bool:
    """Raises MatcherError for another file of that name."""
    if not path.is_file():
        return False
    if hashlib.sha256(path.read_bytes()).hexdigest() != published.sha256:
        raise MatcherError(f"{path}: exists already and is not the published file; choose another --out")
    return True


def _accept(wanted: dict[str, Published], options: FetchOptions) -> None:
    """Raises MatcherError unless every licence that allows less than anything is accepted."""
    bound: dict[str, list[str]] = {}
    for name, published in wanted.items():
        if not published.free:
            bound.setdefault(published.licence, []).append(name)
    for licence, names in bound.items():
        of = f"{', '.join(names)}: {licence}"
        if options.accept_licence:
            print(of)
        elif options.ask is None:
            raise MatcherError(f"{of}; read it, then pass --accept-licence")
        elif not options.ask(f"{of}\nDo you accept this licence?"):
            raise MatcherError(f"{', '.join(names)}: licence not accepted, nothing was fetched")


def _fetched(published: Published) -> bytes:
    """The content, checked. Raises MatcherError naming the address."""
    by_hand = f"; put a copy of it under the name {published.file} into --out, and call again"
    try:
        content = _read(published.url)
    except (OSError, EOFError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MatcherError(f"{published.url}: cannot be fetched: {reason}{by_hand}") from None
    if hashlib.sha256(content).hexdigest() != published.sha256:
        raise MatcherError(f"{published.url}: sends another file than the one known here (SHA-256 {published.sha256[:12]}...), "
                           "which is not kept")
    return content


def _read(url: str) -> bytes:
    from rich.progress import wrap_file
    with urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - addresses of PUBLISHED alone
        length = int(answer.headers.get("Content-Length") or 0)
        content = bytearray()
        with wrap_file(answer, length, description=url.rpartition("/")[2], transient=True) as watched:
            while len(content) <= LARGEST_BYTES and (part := watched.read(_PART_BYTES)):
                content += part
    if len(content) < min(length, LARGEST_BYTES):
        raise EOFError(f"ended after {len(content)} of {length} bytes")
    return bytes(content)
