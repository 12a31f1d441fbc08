"""Which variant each site of a graph takes, by what was decided on the example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

from denoise_ext.engine.fuse.ir import Constants, Site, Step
from denoise_ext.engine.fuse.verify import Examination
from denoise_ext.ops.tuned import Tuned

SiteKey = tuple[str, str, int]


def site_keys(sites: list[Site]) -> list[SiteKey]:
    """Names of sites that are the same at every size: module, label, which of those alike."""
    count: Counter[tuple[str, str]] = Counter()
    keys = []
    for site in sites:
        name = (site.module, site.label)
        keys.append((*name, count[name]))
        count[name] += 1
    return keys


def decided(found: Examination) -> dict[SiteKey, str | None]:
    """The variant of each site; None where it runs as traced."""
    sites = zip(site_keys([*found.chosen]), found.chosen.values(), found.rows, strict=True)
    return {key: row.variant if step is not None else None for key, step, row in sites}


def choosing(
    sites: list[Site], constants: Constants, decisions: Mapping[SiteKey, str | None]
) -> Generator[SiteKey, None, dict[Site, Step | None]]:
    """What was decided on the example; a site that it did not have gets the best guess.

    Names each site before its weight is packed.
    """
    chosen: dict[Site, Step | None] = {}
    for site, key in zip(sites, site_keys(sites), strict=True):
        variants = site.variants()
        if not variants:  # a concatenation has no step of its own
            chosen[site] = None
            continue
        variant = decisions.get(key, variants[0])
        if variant is not None:  # else it runs as traced
            usable = variant if variant in variants else variants[0]  # another dtype: others
            yield key
            chosen[site] = site.step(usable, constants)
    return chosen


def leave_sites(found: Examination) -> None:
    """Note that PyTorch's operators serve everywhere."""
    found.chosen.update((site, None) for site in found.chosen if site.replaces)
    for row in found.rows:
        if row.variant not in ("original", "in place", "planned memory"):
            row.variant, row.reason = "original", "the whole is faster without"


def drop_unused(constants: Constants, found: Examination) -> None:
    """Only what the chosen variants read stays packed; a plan lays out what else it reads."""
    steps = [step for step in found.chosen.values() if step]
    used = {id(a) for step in steps for a in step.args}
    used |= {id(step.function.packed) for step in steps if isinstance(step.function, Tuned)}

    def is_read(kind: str, packed: Any) -> bool:
        parts = packed if kind == "folded" else (packed,)  # a weight and its bias
        return kind != "laid out" and any(id(part) in used for part in parts)

    for key in [key for key, packed in constants.packed.items() if not is_read(key[0], packed)]:
        del constants.packed[key]
