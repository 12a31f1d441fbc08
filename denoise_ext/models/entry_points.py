"""Families of other distributions: the entry points of the group ``denoise_ext.models``."""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import warnings

from denoise_ext._log import get_logger

GROUP = "denoise_ext.models"

logger: logging.Logger = get_logger("denoise_ext.models")
_lock = threading.RLock()  # a module that is loaded may look names up itself
_begun = _done = False


class EntryPointWarning(UserWarning):
    """An entry point of the group ``denoise_ext.models`` that cannot be loaded.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", denoise_ext.models.EntryPointWarning)
        ...     names = denoise_ext.models.list_models()
    """


def load_entry_points() -> None:
    """Import the modules that installed distributions name, once; they register their families.

    One that fails is left out, with an :class:`EntryPointWarning` that names its distribution.
    """
    global _begun, _done
    if _done:
        return
    with _lock:  # other threads wait until all are loaded
        if _begun:
            return
        _begun = True
        try:
            for point in importlib.metadata.entry_points(group=GROUP):
                _load(point)
        finally:
            _done = True


def _load(point: importlib.metadata.EntryPoint) -> None:
    owner = "an unnamed distribution" if point.dist is None else point.dist.name
    try:
        point.load()
    except (Exception, SystemExit) as error:  # whatever a foreign module does
        reason = " ".join(str(error).split()) or "no reason given"
        warnings.warn(
            f"the models of {owner} cannot be loaded: entry point {point.name} = {point.value}:"
            f" {type(error).__name__}: {reason}",
            EntryPointWarning,
            stacklevel=2,
        )
    else:
        logger.info("loaded %s = %s of %s", point.name, point.value, owner)
