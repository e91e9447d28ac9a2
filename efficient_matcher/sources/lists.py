"""Text files that list something, one a line."""

from __future__ import annotations

from pathlib import Path

from efficient_matcher.errors import SourceError


def listed_lines(file: Path | str) -> list[tuple[str, str]]:
    """Where each line of a list of pairs stands, for messages, and the line; without blank ones and those from `#` on.

    Raises SourceError naming the file when it cannot be read, is no text, or lists nothing.
    """
    try:
        lines = Path(file).read_text().splitlines()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{file}: is not a text file") from None
    found = [(f"{file}, line {number}", line) for number, line in enumerate(lines, 1)
             if line.strip() and not line.startswith("#")]
    if not found:
        raise SourceError(f"{file}: lists no pairs")
    return found
