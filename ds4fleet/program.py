"""What a program of ours on a Mac consists of, in the form of ds4fleet.render: files, library, job. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds4fleet.render import ROLE, Paths


def entry(path: str, kind: str, *, stage: str = "service", **more: Any) -> dict[str, Any]:
    """A file, directory or absence; root's own unless `more` says otherwise."""
    plain = {"content": None, "target": None, "validate": None, "mode": None}
    return {"path": path, "kind": kind, **plain, "owner": "root", "group": "wheel", "stage": stage, **more}


def script(name: str, path: str) -> dict[str, Any]:
    """A program of the role's files, to be run from `path`."""
    text = (ROLE / "files" / f"{name}.py").read_text(encoding="utf-8")
    return entry(path, "file", content=text, mode="0755")


def job(label: str, state: str, restart_on: Sequence[str] = (), *, stage: str = "service") -> dict[str, Any]:
    """A launchd job: started, loaded or absent; restart_on: paths whose change restarts it."""
    plist = Paths.plist(label)
    return {"label": label, "plist": plist, "state": state, "restart_on": list(restart_on), "stage": stage}


def library_dirs(root: str) -> list[str]:
    """Directories of the library that programs of ours import, in the order in which they are made."""
    library = f"{root}/libexec/lib"
    return [library, f"{library}/ansible", f"{library}/ansible/module_utils"]


def library(root: str, names: Sequence[str]) -> dict[str, str]:
    """{path: content} of these of the role's module_utils, as a package that needs no Ansible."""
    package = f"{root}/libexec/lib/ansible"
    texts = {f"{package}/__init__.py": "", f"{package}/module_utils/__init__.py": ""}
    for name in names:
        source = ROLE / "module_utils" / f"{name}.py"
        texts[f"{package}/module_utils/{name}.py"] = source.read_text(encoding="utf-8")
    return texts
