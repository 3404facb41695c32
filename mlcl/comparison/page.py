"""The output of ``mlcl compare``: tables at the terminal, compare.md, compare.html, per_class_gains.png."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from mlcl.comparison import tables
from mlcl.comparison.figure import alternative, caption, per_class_gains
from mlcl.comparison.outcome import Comparison
from mlcl.system.files import write_whole
from mlcl.viz import pages

PLOT = "per_class_gains.png"


def show(comparison: Comparison) -> None:
    """Print the tables, the definitions and the notes."""
    console = Console()
    for table in (tables.metrics(comparison, ("mAP", "CF1", "OF1")), *_differences(comparison)):
        console.print(table.title, highlight=False, markup=False)
        console.print(table.rich())
    definitions = [f"{name}: {meaning}" for name, meaning in comparison.definitions.items()]
    for style, lines in (("dim", definitions), ("yellow", comparison.notes)):
        for line in lines:
            console.print(Padding(Text(line, style), (0, 0, 0, 2), expand=False))


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the three files."""
    figure = per_class_gains(comparison)
    write_whole(folder / PLOT, lambda path: pages.save(figure, path, dpi=150))
    write_whole(folder / "compare.md", pages.clean(_markdown(comparison)))
    write_whole(folder / "compare.html", _html(comparison))
    return [folder / name for name in ("compare.md", "compare.html", PLOT)]


def _summary_tables(comparison: Comparison) -> list[tables.Table]:
    top3 = tables.metrics(comparison, tables.METRICS[1:], "_top3")
    return [tables.metrics(comparison), *_differences(comparison), top3]


def _differences(comparison: Comparison) -> list[tables.Table]:
    found = tables.gains(comparison), tables.groups(comparison), tables.looks(comparison)
    return [table for table in found if table is not None]


def _markdown(comparison: Comparison) -> str:
    definitions = "\n".join(
        f"- {tables.markdown_text(name)}: {tables.markdown_text(str(meaning))}"
        for name, meaning in comparison.definitions.items()
    )
    notes = "\n".join(f"- {tables.markdown_text(note)}" for note in comparison.notes)
    parts = [
        f"# {tables.markdown_text(_title(comparison))}",
        *(table.markdown() for table in _summary_tables(comparison)),
        f"## AP gain of each class\n\n![{tables.markdown_text(alternative(comparison))}]({PLOT})",
        tables.markdown_text(caption(comparison)),
        *([f"## Notes\n\n{notes}"] if notes else []),
        f"## Definitions\n\n{definitions}",
    ]
    return "\n\n".join(parts) + "\n"


def _html(comparison: Comparison) -> str:
    others = [result.name for result in comparison.results[1:]]
    return pages.render(
        "compare.html",
        title=_title(comparison),
        tables=_summary_tables(comparison),
        classes=tables.per_class(comparison),
        plots=[pages.svg(per_class_gains(comparison, [name]), alternative(comparison, [name])) for name in others],
        caption=caption(comparison),
        notes=comparison.notes,
        definitions=comparison.definitions,
    )


def _title(comparison: Comparison) -> str:
    baseline, *others = (result.name for result in comparison.results)
    return f"{', '.join(others)} against {baseline}"
