"""What Ansible sends to a Mac for a module of the role, kept from one run to the next.

Ansible packs a module with all that it imports, anew in each run, and keeps that in a folder of the run
alone. `bring` puts there what an earlier run has packed of the same code, `keep` puts away what this one has.
Where a release of Ansible looks elsewhere, it packs as before; tests/unit/test_payloads.py says so.

Folder and names: ansible/executor/module_common.py of ansible-core 2.19 to 2.21 (`ansiballz_cache`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path

from ds4fleet.fleet import CHECKOUT

ROLE = CHECKOUT / "roles" / "ds4"
#: Of the run, below Ansible's `local_tmp`.
_RUN = "ansiballz_cache"
#: Below Ansible's home, one folder for each state of the code.
_KEPT = "ds4-payloads"
#: A module of a role, compressed in whatever way, without a debugger's extension.
_NAME = re.compile(r"ansible\.legacy\.ds4_\w+-\w+-none\Z")


def state(version: str, role: Path = ROLE) -> str:
    """Names the code that a payload consists of: that of the role and, by its version, Ansible's own."""
    digest = hashlib.sha256(version.encode())
    for folder in ("library", "module_utils"):
        for path in sorted((role / folder).glob("*.py")):
            content = path.read_bytes()
            digest.update(f"\n{folder}/{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def bring(local_tmp: Path, home: Path, version: str) -> str:
    """Gives a run that begins what is kept; returns the state of the code, for `keep`.

    local_tmp, home: of Ansible; version: of ansible-core.
    """
    found = state(version)
    kept = home / _KEPT / found
    with contextlib.suppress(OSError):
        if not _is_ours_alone(kept):
            return found
        (local_tmp / _RUN).mkdir(exist_ok=True)
        for path in kept.iterdir():
            if _NAME.match(path.name):
                _copy(path, local_tmp / _RUN / path.name)
    return found


def keep(local_tmp: Path, home: Path, version: str, began: str) -> None:
    """Puts away what a run that ends has packed; what was kept of other code goes.

    began: the state of the code when the run began; of code that has changed since, nobody knows what is in
    a payload.
    """
    kept = home / _KEPT / began
    with contextlib.suppress(OSError):
        if state(version) != began:
            return
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours_alone(kept):
            return
        for path in (local_tmp / _RUN).iterdir():
            if _NAME.match(path.name) and not (kept / path.name).exists():
                _copy(path, kept / path.name)
        for other in kept.parent.iterdir():
            if other != kept:
                shutil.rmtree(other, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Half a payload never has the name of one."""
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(source, partial)
    partial.rename(target)


def _is_ours_alone(folder: Path) -> bool:
    """Ansible unpickles what it finds: nobody else may have written it."""
    facts = [path.stat() for path in (folder, folder.parent)]
    return all(one.st_uid == os.geteuid() and not one.st_mode & 0o022 for one in facts)
