#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""All files, directories and links of a stage in one call, their content in its arguments."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_files
short_description: Write a batch of files, directories and links
description:
  - Brings every entry to the wanted content, owner, group and mode, in the order given.
  - A file is written beside its place, checked with the tool that reads it, and renamed over the old one.
  - Everything is checked before the first change; an entry that fails its check changes nothing at all.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  files:
    description: The entries of the plan.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Absolute path. Links on the way (V(/etc), V(/var), V(/tmp)) are followed where root alone can have
            made them. A link at its end is not followed.
        type: path
        required: true
      kind:
        description:
          - What is to be there. A directory that is not empty is only removed where O(files[].recursive).
        type: str
        choices: [file, dir, link, absent]
        default: file
      content:
        description: Content of a file. Unset, the file must exist and what is in it is left alone.
        type: str
      sha256:
        description: SHA-256 of a file whose content is in O(files[].packed), in hexadecimal.
        type: str
      packed:
        description: Content of a file, text or not, compressed by zlib and encoded in base64.
        type: str
      source:
        description: What the action of this name puts into O(files[].packed).
        type: str
        choices: [ds4agent]
      recursive:
        description: Whether to remove a directory that is to be absent with everything in it.
        type: bool
        default: false
      target:
        description: Target of a link.
        type: str
      owner:
        description: Name of the owner.
        type: str
      group:
        description: Name of the group.
        type: str
      mode:
        description: Mode in octal. Without it a new file gets V(0644) and a new directory V(0755).
        type: str
      validate:
        description:
          - The tool that must accept the content before it is installed, one of V(sudoers), V(sshd), V(plist)
            and V(newsyslog). Null, as plans have it, is the same as leaving it out.
        type: str
      stage:
        description: The stage that the entry belongs to, as the plan says; not used here.
        type: str
"""

EXAMPLES = r"""
- name: Write the files of a stage
  ds4.fleet.ds4_files:
    files:
      - path: /opt/ds4/etc
        kind: dir
        owner: root
        group: wheel
        mode: "0755"
      - path: /opt/ds4/etc/server.conf
        content: "port=8000\n"
        owner: root
        group: wheel
        mode: "0644"
      - path: /etc/newsyslog.d/old.conf
        kind: absent
"""

RETURN = r"""
changed_paths:
  description: Paths that were changed, or with check mode would be.
  returned: success
  type: list
  elements: str
kept:
  description: Directories that were to be removed and are not empty.
  returned: success
  type: list
  elements: str
"""

import os
import tempfile
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import safe
from ..module_utils.ds4agent.mac.files import apply, content_of, ids
from ..module_utils.ds4agent.mac.run import run
from ..module_utils.ds4agent.mac.tree import describe, differences, problem

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import FileEntry, FoundFile


class Refusal(Exception):
    """A sentence for the operator: why nothing was written."""


def checker(kind: str) -> Callable[[str], None]:
    """A function of a path that raises Refusal when the tool of this kind does not accept the file there."""

    def check(path: str) -> None:
        if kind == "sshd":
            # The whole configuration must hold with the drop-in; the main file comes first, because a Match
            # block of ours would swallow what follows it.
            with tempfile.NamedTemporaryFile("w", suffix=".conf") as whole:
                whole.write("Include /etc/ssh/sshd_config\n" + safe.text(path))
                whole.flush()
                result = run("sshd", "-t", "-f", whole.name)
        elif kind == "sudoers":
            result = run("visudo", "-cf", path)
        elif kind == "plist":
            result = run("plutil", "-lint", path)
        elif kind == "newsyslog":
            result = run("newsyslog", "-n", "-f", path)
        else:
            raise Refusal("nothing is known that checks %s" % kind)
        if not result.ok:
            raise Refusal(result.sentence())

    return check


def validate(entry: FileEntry) -> None:
    """Let the tool of the entry judge its content, from a file that nothing reads."""
    with tempfile.NamedTemporaryFile(suffix=".ds4") as stream:
        stream.write((entry["content"] or "").encode("utf-8"))
        stream.flush()
        try:
            checker(entry["validate"] or "")(stream.name)
        except Refusal as error:
            raise Refusal("%s was not written: %s" % (entry["path"], error)) from error


def check_owners(entry: FileEntry) -> None:
    """Refusal for a name of an account or group that this Mac does not have."""
    try:
        ids(entry)
    except KeyError as error:
        raise Refusal("%s: %s" % (entry["path"], error.args[0])) from error


def names(path: str) -> list[str]:
    """What is in a directory, as far as it matters to whether it may go."""
    with safe.folder(path) as here:
        return safe.names(here)


def diff(entry: FileEntry, found: FoundFile, wrong: Collection[str]) -> list[dict[str, str]]:
    """An Ansible diff of one entry: its attributes, and its content where that changes."""
    path = entry["path"]
    before = {key: found[key] for key in ("kind", "target", "owner", "group", "mode")}
    after = {key: entry.get(key) or before.get(key) for key in before}
    shown = [{
        "before_header": path,
        "after_header": path,
        "before": "".join("%s: %s\n" % (key, before[key]) for key in before if before[key] != after[key]),
        "after": "".join("%s: %s\n" % (key, after[key]) for key in before if before[key] != after[key]),
    }]  # fmt: skip
    if entry["kind"] == "file" and entry["content"] is not None and ("content" in wrong or "kind" in wrong):
        old = safe.text(path) if found["kind"] == "file" else ""
        shown.append({"before_header": path, "after_header": path, "before": old, "after": entry["content"]})
    return shown


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare all, check all, then write."""
    pending: list[tuple[FileEntry, FoundFile, list[str]]] = []
    result: dict[str, Any] = {"changed_paths": [], "kept": [], "diff": []}
    for entry in module.params["files"]:
        found = describe(entry["path"])
        trouble = problem(entry, found)
        if trouble:
            raise Refusal(trouble)
        wrong = differences(entry, found)
        if not wrong:
            continue
        if entry["kind"] == "absent" and found["kind"] == "dir" and not entry["recursive"]:
            removed = {item["path"] for item, _found, _wrong in pending if item["kind"] == "absent"}
            if any(os.path.join(entry["path"], name) not in removed for name in names(entry["path"])):
                result["kept"].append(entry["path"])
                continue
        if entry["validate"] and "content" in wrong + (["content"] if "kind" in wrong else []):
            validate(entry)
        if not module.check_mode:
            check_owners(entry)
            content_of(entry)
        pending.append((entry, found, wrong))
    for entry, found, wrong in pending:
        result["diff"] += diff(entry, found, wrong)
        if module.check_mode or apply(entry, found, wrong):
            result["changed_paths"].append(entry["path"])
    result["changed"] = bool(result["changed_paths"])
    return result


def main() -> None:
    entry = {
        "path": {"type": "path", "required": True},
        "kind": {"type": "str", "choices": ["file", "dir", "link", "absent"], "default": "file"},
        "content": {"type": "str"},
        "sha256": {"type": "str"},
        "packed": {"type": "str"},
        "source": {"type": "str", "choices": ["ds4agent"]},
        "recursive": {"type": "bool", "default": False},
        "target": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
        "validate": {"type": "str"},
        "stage": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": entry}},
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except (Refusal, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
