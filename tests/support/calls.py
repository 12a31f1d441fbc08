"""What a test needs to describe one call of an operator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Call:
    """One call of an operator: shapes of its tensor arguments and its other arguments."""

    shapes: dict[str, tuple[int, ...]]
    options: dict[str, object] = field(default_factory=dict)

    def with_options(self, **options: object) -> Call:
        return replace(self, options={**self.options, **options})

    def with_shapes(self, **shapes: tuple[int, ...]) -> Call:
        return replace(self, shapes={**self.shapes, **shapes})
