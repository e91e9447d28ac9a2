"""Fetching published weights, from a server of this test's own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from efficient_matcher.commands import fetch_weights as command
from efficient_matcher.commands.fetch_weights import PUBLISHED, FetchOptions, run
from efficient_matcher.errors import MatcherError

pytest.importorskip("rich")

CONTENT = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """`cut.pt` breaks off, `other.pt` is another file, what is called gone is not there."""

    asked: list[str] = []

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        self.send_response(404 if name.startswith("gone") else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"cut.pt": CONTENT[:1000], "other.pt": CONTENT[::-1]}.get(name, CONTENT))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture()
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves PUBLISHED; gives the names it was asked for."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    here, digest = f"http://127.0.0.1:{served.server_port}/", hashlib.sha256(CONTENT).hexdigest()
    files = {**PUBLISHED, **{name: PUBLISHED["xfeat"] for name in ("cut", "other", "gone")}}
    for name, published in files.items():
        file = published.file if name in PUBLISHED else f"{name}.pt"
        files[name] = replace(published, url=here + file, sha256=digest)
    monkeypatch.setattr(command, "PUBLISHED", files)
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield Handler.asked
    served.shutdown()
    served.server_close()


def test_a_free_file_is_fetched_once_without_a_question(server: list[str], tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    options = FetchOptions(["xfeat", "xfeat"], tmp_path / "new", json=tmp_path / "fetch.json")
    assert run(options) == run(options) == [tmp_path / "new" / "xfeat.pt"]
    assert (tmp_path / "new" / "xfeat.pt").read_bytes() == CONTENT and server == ["xfeat.pt"]
    told = capsys.readouterr().out
    assert "Apache-2.0" in told and "(there before)" in told
    report = json.loads((tmp_path / "fetch.json").read_text())["files"]["xfeat"]
    assert report["sha256"] == hashlib.sha256(CONTENT).hexdigest() and report["licence"] == "Apache-2.0"


def test_a_licence_for_research_only_is_shown_and_asked_for_once(server: list[str], tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    questions: list[str] = []
    options = FetchOptions(["superpoint", "superglue-outdoor"], tmp_path, ask=lambda text: bool(questions.append(text)))
    with pytest.raises(MatcherError, match="licence not accepted, nothing was fetched"):
        run(options)
    with pytest.raises(MatcherError, match="research only.*pass --accept-licence"):
        run(replace(options, ask=None))
    assert not server and not list(tmp_path.iterdir())
    assert len(questions) == 1 and "superpoint, superglue-outdoor" in questions[0] and "research only" in questions[0]
    files = run(replace(options, accept_licence=True, ask=None))
    assert [file.name for file in files] == ["superpoint_v1.pth", "superglue_outdoor.pth"]
    assert "research only" in capsys.readouterr().out
    assert run(replace(options, ask=lambda _: pytest.fail("asked again"))) == files


@pytest.mark.parametrize(("name", "told"), [
    ("cut", "cut.pt: cannot be fetched: ended after 1000 of 256000 bytes"), ("gone", "gone.pt: cannot be fetched: Not Found"),
    ("other", "other.pt: sends another file than the one known here"), ("superpiont", "unknown weights 'superpiont', known: ")])
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(server: list[str], tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(MatcherError, match=told):
        run(FetchOptions([name], tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_never_ends_is_not_kept(server: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LARGEST_BYTES", 1000)
    with pytest.raises(MatcherError, match="xfeat.pt: sends another file"):
        run(FetchOptions(["xfeat"], tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_command_asks_nobody_where_nobody_is(server: list[str], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from efficient_matcher.commands.app import app
    arguments = ["fetch-weights", "superpoint", "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "pass --accept-licence" in refused.output and not server
    assert CliRunner().invoke(app, [*arguments, "--accept-licence"]).exit_code == 0
    assert (tmp_path / "superpoint_v1.pth").read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(command, "PUBLISHED", {"xfeat": replace(PUBLISHED["xfeat"], url="http://127.0.0.1:9/xfeat.pt")})
    with pytest.raises(MatcherError, match="127.0.0.1:9/xfeat.pt: cannot be fetched: .*refused.*under the name xfeat.pt"):
        run(FetchOptions(["xfeat"], tmp_path))


def test_another_file_of_that_name_is_left_alone(server: list[str], tmp_path: Path) -> None:
    (tmp_path / "xfeat.pt").write_bytes(b"mine")
    with pytest.raises(MatcherError, match="xfeat.pt: exists already and is not the published file"):
        run(FetchOptions(["xfeat"], tmp_path))
    assert (tmp_path / "xfeat.pt").read_bytes() == b"mine" and not server


def test_without_a_name_it_says_what_there_is(server: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FetchOptions()) == [] and not server
    told = capsys.readouterr().out
    assert all(name in told for name in PUBLISHED)


def test_addresses_and_digests_are_whole() -> None:
    for published in PUBLISHED.values():
        assert published.url.startswith("https://") and len(bytes.fromhex(published.sha256)) == 32
