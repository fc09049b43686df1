"""The shell scripts that launchd and sshd start on a Mac, from the templates of the role. Pure.

A plan names them by their checksum; the action ds4_files writes their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import jinja2

from ds4fleet.components import base
from ds4fleet.components.shapes import FileEntry
from ds4fleet.layout import RELEASE_MARKER, ROLE, Paths

#: A boot job tries for so long in one run, which is more than its throttle; a tool that hangs gets longer.
BOOT_TRY_S = 60
BOOT_HANG_S = 120
#: A log above 10 MiB is put away (find counts blocks of 512 bytes).
ROTATE_BLOCKS = 20480
#: The values of each script's template besides the paths.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "ds4-mounts": {"job": "mounts", "try_s": BOOT_TRY_S, "hang_s": BOOT_HANG_S},
    "ds4-wired": {"job": "wired", "try_s": BOOT_TRY_S, "hang_s": BOOT_HANG_S},
    "ds4-start": {"release_marker": RELEASE_MARKER},
    "ds4-rotate": {"rotate_blocks": ROTATE_BLOCKS},
    "ds4-tunnel-wait": {},
}


@cache
def text(name: str, root: str) -> str:
    """The script of that name for Macs whose folder is `root`."""
    return template(f"{name}.j2", paths=Paths(root), **VALUES[name])


def entry(path: str, root: str, *, stage: str) -> FileEntry:
    """The script at `path` in the form of a plan's `files`; its name tells which one."""
    name = PurePosixPath(path).name
    checksum = base.sha256(text(name, root))
    return FileEntry(path, "file", mode="0755", stage=stage, source=name, sha256=checksum)


def with_content(entry: FileEntry) -> FileEntry:
    """An entry with its script's text in it, where it is a script."""
    if entry.source not in VALUES:
        return entry
    root = str(PurePosixPath(entry.path).parents[1])
    return replace(entry, content=text(entry.source, root), source=None, sha256=None)


def template(name: str, **values: Any) -> str:
    """The text of a template of the role with these values; one that it lacks is an error."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
