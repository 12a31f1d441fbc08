"""All fuzz targets: a new one is a line here."""

from __future__ import annotations

from fuzz import (
    checkpoints,
    codec_files,
    images,
    operators,
    raw_motion,
    raw_operators,
    uploads,
    videos,
)
from fuzz.target import Target


def all_targets() -> list[Target]:
    """Every target that can run here, by group."""
    groups = (
        operators,
        raw_operators,
        raw_motion,
        images,
        codec_files,
        videos,
        checkpoints,
        uploads,
    )
    return [target for group in groups for target in group.targets()]
