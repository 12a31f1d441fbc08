"""The report of ``accelerate``: a table of sites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Row:
    """One place in the model.

    Attributes:
        module: its name in the model; "" is the model itself.
        site: what is computed there.
        variant: the algorithm; "original" if PyTorch runs it.
        error: root mean square difference from the original on the example, relative to the root
            mean square of the original's result; or, if larger, the largest difference relative
            to 1.5 times the largest value.  None if not measured.
        bound: limit of ``error``.
        original_ms, ours_ms: shortest of a few runs; None if not measured.
        reason: why PyTorch runs it, or a remark.
        decided: "timed" on the example; "cached": timed by an earlier process; "known": by rule,
            for this package's own networks; "" if there was no choice.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()).eval()
        >>> report = denoise_ext.accelerate(network, torch.rand(1, 1, 32, 32)).report()
        >>> sites = [row.site for row in report.rows]
        >>> measured = [(row.site, row.variant, row.speedup) for row in report.rows if row.ours_ms]
    """

    module: str
    site: str
    variant: str
    error: float | None = None
    bound: float | None = None
    original_ms: float | None = None
    ours_ms: float | None = None
    reason: str = ""
    decided: str = ""

    @property
    def speedup(self) -> float | None:
        """Divide the original's time by ours."""
        if self.original_ms is None or not self.ours_ms:
            return None
        return self.original_ms / self.ours_ms

    def cells(self) -> list[str]:
        """Format the row as text."""
        return [
            self.module or "(model)", self.site, self.variant, _number(self.error, ".1e"),
            _number(self.bound, ".0e"), _number(self.original_ms, ".3g"),
            _number(self.ours_ms, ".3g"), _number(self.speedup, ".2f"), self.decided, self.reason,
        ]  # fmt: skip


_TITLES = [
    "module", "site", "variant", "error", "bound", "original ms", "ours ms", "speedup", "decided",
    "reason",
]  # fmt: skip


@dataclass
class Report:
    """The rows, in the order of the decisions; print it for the table.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()).eval()
        >>> report = denoise_ext.accelerate(network, torch.rand(1, 1, 32, 32)).report()
        >>> "conv2d 3x3 1->8 + relu" in str(report)
        True
    """

    rows: list[Row]

    def __str__(self) -> str:
        if not self.rows:
            return "nothing decided yet: the first call decides"
        lines = [_TITLES, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_TITLES))]
        # Numbers to the right, words to the left.
        text = [
            "  ".join(
                cell.rjust(width) if 3 <= i <= 7 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(text)

    __repr__ = __str__


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)
