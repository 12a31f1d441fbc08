"""Find the files of ``denoise-ext denoise`` and the target of each result."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from denoise_ext.cli.common import CliError

if TYPE_CHECKING:
    from denoise_ext.io import FoundImage
    from denoise_ext.jobs.storage import Job

Failure = tuple[str, str]  # what, why


@dataclass(frozen=True)
class JobList:
    """The jobs of one run."""

    jobs: list[Job]
    failures: list[Failure]
    """Inputs without a file, and files whose output is that of another one."""
    output: str
    is_folder: bool
    """Whether the output is a folder, in which results keep the names of their sources."""
    notes: tuple[str, ...] = ()
    """Remarks on the targets, one line each."""


def list_jobs(
    inputs: list[str],
    output: str,
    recursive: bool,
    suffix: str,
    shard: tuple[int, int],
    cluster: bool = False,
) -> JobList:
    """Find the files and give each its target.

    In a folder, results keep the names of their sources. `suffix` (``.tif``) replaces their own. If
    two sources would then have one name (``a.png``, ``a.jpg``), each keeps its old suffix before
    the new one (``a.png.tif``, ``a.jpg.tif``), in any order. Without `suffix`, formats that are
    only read (camera raw) become TIFF in the same way.

    The SHA-256 of a file's name below the output decides its shard. The shard depends on no other
    file, so that files can be added between runs.

    On a cluster, inputs and output may be URLs, and the output is always a folder.

    Raises CliError if nothing is found, or if the output does not fit the inputs.
    """
    paths = [path for argument in inputs for path in _listed(argument)]
    if not cluster and any("://" in path for path in (*paths, output)):
        raise CliError("URLs are for --engine ray")
    found, failures = _find(paths, recursive, cluster)
    count = len(found) + len(failures)
    as_folder = cluster or _output_is_folder(output, paths, count, suffix)
    if as_folder:
        found = [image for image in found if not _is_result(image, output)]
    jobs, clashes = _targets(found, output, as_folder, suffix)
    mine = [job for job in jobs if _shard_of(job.name, shard[1]) == shard[0]]
    raw = 0 if suffix or not as_folder else sum(_read_only(Path(job.source)) for job in mine)
    files = "1 camera raw file is" if raw == 1 else f"{raw} camera raw files are"
    notes = (f"{files} written as TIFF; --format takes another",) if raw else ()
    return JobList(mine, failures + clashes, output, as_folder, notes)


def check_quality_of(found: JobList, quality: int | None) -> None:
    """CliError where a result's format does not take ``quality``."""
    from denoise_ext.io import ImageError
    from denoise_ext.io.codecs import suffix_of
    from denoise_ext.io.write import check_quality

    suffixes = {suffix_of(os.path.basename(os.fspath(job.target)))[0] for job in found.jobs}
    try:
        for suffix in sorted(suffixes):
            if codec := suffix_of(f"x{suffix}")[1]:
                check_quality(codec, quality)
    except ImageError as error:
        raise CliError(f"--{error}; --format names another format") from None


def _listed(argument: str) -> list[str]:
    """Replace ``@FILE`` by the lines of that file (``@-``: of the standard input)."""
    if not argument.startswith("@") or os.path.exists(argument):
        return [argument]
    try:
        if argument == "@-":
            text = sys.stdin.buffer.read()
        else:
            text = Path(argument[1:]).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CliError(f"cannot read the list {argument[1:]!r}: {reason}") from error
    lines = [os.fsdecode(line.removesuffix(b"\r")) for line in text.split(b"\n")]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise CliError(f"the list {argument[1:]!r} names no file")
    return lines


def _find(
    paths: list[str], recursive: bool, cluster: bool
) -> tuple[list[FoundImage], list[Failure]]:
    """Every file once, and the inputs without a file. CliError if nothing is found."""
    from denoise_ext.io import ImageError, find_images

    find: Callable[[str, bool], list[FoundImage]] = find_images
    if cluster:
        from denoise_ext.jobs.urls import find_files

        find = find_files
    found: dict[str, FoundImage] = {}
    failures = []
    for path in paths:
        try:
            for image in find(path, recursive):
                # a pattern may lead through links to the same file: the shortest way is its name
                url = "://" in str(image.path)
                key = str(image.path) if url else os.path.realpath(image.path)
                known = found.get(key)
                if known is None or len(image.relative.parts) < len(known.relative.parts):
                    found[key] = image
        except ImageError as error:
            failures.append((path, str(error)))
    if not found:
        raise CliError("; ".join(reason for _, reason in failures))
    return list(found.values()), failures


def _output_is_folder(output: str, paths: list[str], count: int, suffix: str) -> bool:
    from denoise_ext.io.codecs import suffix_of

    out = Path(output)
    if out.is_dir() or output.endswith(("/", os.sep)):
        return True
    one_file = count == 1 and len(paths) == 1 and Path(paths[0]).is_file()
    known, codec = suffix_of(out.name)
    if codec is not None:
        if not one_file:
            raise CliError(f"output {output!r} is one file, but the inputs are not: name a folder")
        if suffix and suffix != known:
            raise CliError(f"output {output!r} has a format, --format {suffix[1:]} another")
        return False
    if out.exists():
        raise CliError(f"output {output!r} exists and is neither a folder nor an image file")
    # a name without a suffix is a folder to make; one with an unknown suffix is a mistake
    if one_file and out.suffix:
        from denoise_ext.io import check_can_write

        check_can_write(out)
    return True


def _is_result(image: FoundImage, output: str) -> bool:
    """Whether the image is a result of an earlier run, in an output below a searched folder."""
    if "://" in str(image.path) or "://" in output:
        return str(image.path).startswith(output.rstrip("/") + "/")
    folder = Path(os.path.realpath(output))
    searched = Path(image.path).parents[len(image.relative.parts) - 1]
    around = Path(os.path.realpath(searched)) in folder.parents
    return around and Path(os.path.realpath(image.path)).is_relative_to(folder)


def _targets(
    found: list[FoundImage], output: str, as_folder: bool, suffix: str
) -> tuple[list[Job], list[Failure]]:
    """Which file goes where; two sources for one target are a failure of the second."""
    from denoise_ext.jobs.storage import Job

    names = [image.relative if as_folder else Path(Path(output).name) for image in found]
    if as_folder:
        wanted = [suffix or (".tif" if _read_only(name) else "") for name in names]
        renamed = [_with_suffix(name, new) if new else name for name, new in zip(names, wanted)]
        count = Counter(renamed)
        names = [
            new if count[new] == 1 else old.with_name(old.name + added)
            for old, new, added in zip(names, renamed, wanted)
        ]
    jobs: dict[str, Job] = {}
    clashes = []
    for image, name in zip(found, names):
        target = _below(output, name) if as_folder else Path(output)
        key = os.path.normpath(target)
        if key in jobs:
            other = str(jobs[key].source)
            clashes.append((str(image.path), f"{str(target)!r} is already the output of {other!r}"))
        else:
            jobs[key] = Job(image.path, target, name)
    return list(jobs.values()), clashes


def _below(output: str, name: Path) -> Path | str:
    return f"{output.rstrip('/')}/{name.as_posix()}" if "://" in output else Path(output) / name


def _read_only(name: Path) -> bool:
    """Whether the name is that of a format that is only read."""
    from denoise_ext.io.codecs import suffix_of

    codec = suffix_of(name.name)[1]
    return codec is not None and codec.write is None


def _with_suffix(name: Path, suffix: str) -> Path:
    from denoise_ext.io.codecs import suffix_of

    old = suffix_of(name.name)[0]
    return name.with_name(name.name[: len(name.name) - len(old)] + suffix)


def _shard_of(name: Path, count: int) -> int:
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") % count + 1
