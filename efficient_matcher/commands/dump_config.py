"""`dump-config`: the settings in force, as a commented YAML file that `--config` reads back."""

from __future__ import annotations

from pathlib import Path

from efficient_matcher.config import Config, dump_config
from efficient_matcher.files import write_text_atomic


def run(config: Config, out: Path | None = None) -> None:
    """Write the settings to `out`, or to standard output. Raises MatcherError when the file cannot be written."""
    text = dump_config(config)
    if out is None:
        print(text, end="", flush=True)
    else:
        write_text_atomic(out, text)
