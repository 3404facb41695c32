"""The comparison as tables of text, the same for terminal, Markdown and HTML; in percent and points of percent."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text
from torch import Tensor

from mlcl.analysis.frequency import meaning
from mlcl.comparison.outcome import Comparison, Gain

METRICS = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and rows of as many texts; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def rich(self) -> RichTable:
        """For the terminal, without the title; names are shown as they are, never read as markup."""
        table = RichTable()
        for number, name in enumerate(self.head):
            words = not number or name == "verdict"  # a number broken over two lines would be read wrongly
            table.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """A table of GitHub's Markdown under its title."""
        head, *rows = (f"| {' | '.join(map(markdown_text, row))} |" for row in (self.head, *self.rows))
        return "\n".join([f"{markdown_text(self.title)}:", "", head, f"|:---{'|---:' * (len(self.head) - 1)}|", *rows])


def metrics(comparison: Comparison, names: tuple[str, ...] = METRICS, suffix: str = "") -> Table:
    """Methods x metrics, mean and standard deviation over runs; ``suffix`` is ``_top3`` for those forms."""
    title = (
        f"{comparison.split}: {comparison.images:,} images, {len(comparison.classes)} classes; percent, "
        f"mean ± standard deviation over runs{', top-3 forms' if suffix else ''}"
    )
    rows = [
        [_name(comparison, number), str(len(result.class_ap)), *(_spread(result.values[n + suffix]) for n in names)]
        for number, result in enumerate(comparison.results)
    ]
    return Table(title, ["method", "runs", *names], rows)


def gains(comparison: Comparison) -> Table:
    """The difference in mAP to the baseline, with its interval and what it allows to say."""
    title = (
        f"mAP minus that of {comparison.results[0].name}: points, {comparison.resamples:,} paired resamples of images "
        f"and of runs, seed {comparison.seed}"
    )
    rows = [
        [result.name, _points(g.value), f"{_points(g.low)} to {_points(g.high)}", f"{100 * g.below:.1f} %", g.verdict]
        for result in comparison.results
        if (g := result.gain) is not None
    ]
    return Table(title, ["method", "difference", "95 % interval", "below 0", "verdict"], rows)


def looks(comparison: Comparison) -> Table | None:
    """Whether attention lies on the objects, and the differences to the baseline; None where no run was measured."""
    return _measured(comparison, "looks", "measure", "does a class look at its objects: percent")


def groups(comparison: Comparison) -> Table | None:
    """The mAP of head, medium and tail classes; None where the runs have no such groups in common."""
    if comparison.borders is None:
        return None
    title = f"mAP by number of training images ({meaning(comparison.borders)}): percent"
    return _measured(comparison, "groups", "classes", title)


def _measured(comparison: Comparison, part: str, heading: str, title: str) -> Table | None:
    """Means and differences of everything that a part of the results holds, in rows, so that they fit a terminal."""
    found: list[dict[str, tuple[Tensor, Gain | None]]] = [getattr(result, part) for result in comparison.results]
    rows = []
    for measure in found[0]:
        for number, own in enumerate(found):
            values, g = own[measure]
            gained = [_points(g.value), f"{_points(g.low)} to {_points(g.high)}"] if g else ["", ""]
            rows.append([_name(comparison, number), measure, _spread(values), *gained])
    title += f", mean ± standard deviation over runs, and points minus {comparison.results[0].name} "
    title += "with their 95 % intervals"
    return Table(title, ["method", heading, "mean", "difference", "95 % interval"], rows) if rows else None


def per_class(comparison: Comparison) -> Table:
    """AP of every class in every method, mean over runs, and the gains with their intervals."""
    baseline, *others = comparison.results
    head = ["class", "positives", f"{baseline.name} AP"]
    columns = [_column(baseline.class_ap.mean(0), percent)]
    for result in others:
        assert result.gain is not None
        gain = result.gain
        head += [f"{result.name} AP", "gain", "low", "high"]
        columns += [_column(result.class_ap.mean(0), percent)]
        columns += [_column(part, _points) for part in (gain.class_values, gain.class_low, gain.class_high)]
    rows = zip(comparison.classes, map(str, comparison.positives), *columns, strict=True)
    title = f"AP in percent, mean over runs, and gain over {baseline.name} in points with its 95 % interval"
    return Table(title, head, [list(row) for row in rows])


def markdown_text(text: str) -> str:
    """Shown as it is, on one line: neither markup, HTML nor a table's cell border."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text)


def percent(value: float) -> str:
    """``0.42137`` as ``42.14``; ``-`` where there is nothing."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(100 * value, 2) + 0.0:+.2f}"  # + 0.0: never -0.00


def _spread(values: Tensor) -> str:
    return f"{percent(float(values.mean()))} ± {percent(float(values.std())) if len(values) > 1 else '-'}"


def _column(values: Tensor, text: Callable[[float], str]) -> list[str]:
    return [text(value) for value in values.tolist()]


def _name(comparison: Comparison, number: int) -> str:
    return f"{comparison.results[number].name}{'' if number else ' (baseline)'}"
