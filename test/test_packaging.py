"""What a newcomer relies on: the README's commands exist, the licence is there, a clone needs nothing by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(text: str) -> list[str]:
    """Lines of the blocks marked as shell."""
    return [line.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]


def test_every_make_command_of_the_readme_exists() -> None:
    commands = set(re.findall(r"^make (\w+)", "\n".join(shell_lines(README)), re.M))
    assert commands == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{name}:", makefile, re.M) for name in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_subcommand_a_page_shows_exists(page: Path) -> None:
    from typer.main import get_command

    from efficient_matcher.commands.app import app
    known = get_command(app)
    for line in shell_lines(page.read_text()):
        words = line.split("#")[0].split()
        if not words or words[0] != "efficient-matcher":
            continue
        command, rest = known, words[1:]
        while hasattr(command, "commands"):
            if getattr(command, "invoke_without_command", False) and (not rest or rest[0].startswith("--")):
                break
            assert rest and rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        options = {"--help"}.union(*(parameter.opts + parameter.secondary_opts for parameter in command.params))
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_pictures_are_small() -> None:
    pictures = [path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".jpg", ".png")]
    assert all(path.stat().st_size < 300_000 for path in pictures)


def test_ci_runs_the_suite_without_input() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert lines[-1] == "exec make test </dev/null"
    assert os.access(script, os.X_OK)


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert "<license>Apache-2.0</license>" in (ROOT / "package.xml").read_text()


def test_wrong_python_is_one_clear_line(tmp_path: Path) -> None:
    run = subprocess.run(["make", "-f", str(ROOT / "Makefile"), "demo", "PYTHON=false"], cwd=tmp_path, text=True,
                         capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert run.returncode != 0
    assert "Python 3.10 to 3.13 is needed" in run.stderr.splitlines()[0]
    assert not list(tmp_path.iterdir())


def test_failing_pip_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("setup.py", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_text("")
    pip = f"{sys.executable} -c \"raise SystemExit('ERROR: no such thing')\""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".made").touch()
    run = subprocess.run(["make", "-f", str(ROOT / "Makefile"), "demo", f"PIP={pip}"], cwd=tmp_path, text=True,
                         capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert run.returncode != 0
    assert run.stderr.splitlines()[0].startswith("make: pip failed: ERROR: no such thing")
    assert not (tmp_path / ".venv" / ".demo").exists()
