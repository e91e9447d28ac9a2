"""The measurements of `compression` as a page: markdown, and HTML that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from efficient_matcher.evaluate.compression import ALONE, MEASURED

Table = tuple[str, list[str], list[list[str]]]  # title, columns, rows; the first column is text
STAGES = ("extract", "match", "refine", "homography")
HOW_FAST = ("frame ms", "times faster")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;
white-space:nowrap}th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #888}
@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}th,td{border-color:#444}}"""


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Size and speed, accuracy, and accuracy on `hard`; a row that is missing says so and has no figures."""
    stages = [name for name in STAGES if any(name in row.get("stages_ms", {}) for row in rows)]
    size = ["", "non-zero weights", "weights", "KiB on disk", "% of dense", "GMACs", *(f"{name} ms" for name in stages),
            *HOW_FAST]
    alone = any(ALONE in row for row in rows)
    size += [f"{name}, not refined" for name in HOW_FAST] if alone else []
    made: list[Table] = [("Table 1: size and speed", size, [_size_row(row, stages, alone) for row in rows])]
    columns = ["", "AUC@5", "AUC@10", "AUC@25", "own fit @5", "@10", "@25", "precision", "recall"]
    kinds = [("strict", ("auc", "auc_own_fit")), ("strict, refined", ("auc_refined", "auc_refined_own_fit"))]
    if not any("auc_refined" in of for row in rows for of in row.get("accuracy", {}).values()):
        del kinds[1]
    for how, fits in kinds:
        for variant, what in (("clean", "accuracy"), ("hard", "accuracy on hard")):
            made.append((f"Table {len(made) + 1}: {what}, {how}", columns, [
                _cells(row, len(columns), lambda row, v=variant, f=fits: _accuracy(row["accuracy"][v], f))
                for row in rows]))
    return made


def missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each row without a bundle, with what makes it."""
    return [f"{row['title']}: no bundle at {row['bundle']}" + (f"; made by: {'; '.join(row['make'])}" if row["make"]
                                                              else "")
            for row in rows if row["status"] != MEASURED]


def markdown(report: Mapping[str, Any]) -> str:
    """The page as markdown."""
    parts = [f"# {report['title']}", *report["text"]]
    for title, columns, rows in tables(report["rows"]):
        head = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
        parts += [f"## {title}", "\n".join([*head, *("| " + " | ".join(_escaped(row)) + " |" for row in rows)])]
    for title, lines in _lists(report):
        parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def page(report: Mapping[str, Any]) -> str:
    """The page as one HTML file."""
    def text(value: str) -> str:
        return html.escape(value)

    body = [f"<h1>{text(report['title'])}</h1>", *(f"<p>{text(line)}</p>" for line in report["text"])]
    for title, columns, rows in tables(report["rows"]):
        head = "".join(f"<th>{text(name)}</th>" for name in columns)
        lines = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        body.append(f"<h2>{text(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>")
    for title, lines in _lists(report):
        body.append(f"<h2>{text(title)}</h2><ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>")
    return (f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{text(report['title'])}</title>"
            f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n")


def _lists(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    notes = [f"{row['title']}: {row['note']}" for row in report["rows"] if row["note"]]
    made = [f"{row['title']} ({row['hash'][:12]}): {'; '.join(row['make'])}" for row in report["rows"]
            if row["status"] == MEASURED and row["make"]]
    return [(title, lines) for title, lines in (("Notes", notes), ("Missing rows", missing(report["rows"])),
                                                ("Made by", made)) if lines]


def _size_row(row: Mapping[str, Any], stages: Sequence[str], alone: bool) -> list[str]:
    def figures(row: Mapping[str, Any]) -> list[str]:
        share, macs = row["size_share"], row["macs"]
        times = [f"{row['stages_ms'][name]['median']:.1f}" if name in row["stages_ms"] else "-" for name in stages]
        return [f"{row['nonzero']:,}", f"{row['weights']:,}", f"{row['bytes'] / 1024:,.0f}", _or_dash(share, 100),
                "-" if macs is None else f"{macs / 1e9:.2f}", *times, *_how_fast(row),
                *(_how_fast(row[ALONE]) if alone else [])]
    return _cells(row, 6 + len(stages) + len(HOW_FAST) * (1 + alone), figures)


def _how_fast(figures: Mapping[str, Any]) -> list[str]:
    faster = figures["times_faster"]
    return [f"{figures['tracked_frame_ms']['median']:.1f}", "-" if faster is None else f"{faster:.2f}"]


def _cells(row: Mapping[str, Any], columns: int, figures: Any) -> list[str]:
    if row["status"] != MEASURED:
        return [row["title"], "missing", *["-"] * (columns - 2)]
    return [row["title"], *figures(row)]


def _accuracy(figures: Mapping[str, Any], fits: Sequence[str]) -> list[str]:
    aucs = [f"{figures[fit][threshold]:.1f}" for fit in fits for threshold in ("5", "10", "25")]
    return [*aucs, _or_dash(figures["precision"]), _or_dash(figures["recall"])]


def _or_dash(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:.1f}"


def _escaped(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]
