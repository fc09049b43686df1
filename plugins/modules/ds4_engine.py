#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Build the engine at a commit beside the one that serves, and switch by one rename."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_engine
short_description: Keep releases of the ds4 engine, each built from one commit
description:
  - Fetches the engine's history into a bare mirror, builds a commit in a directory of its own as an
    unprivileged user, proves that the result is a Metal build, asks it what it can do, and switches
    C(current) by one rename.
  - A build that fails or is cut off leaves the release that serves untouched.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  repo:
    description: Where the history comes from. Needed unless O(state=pruned).
    type: str
  commit:
    description: Commit to build, 7 to 40 hex digits. Needed unless O(state=pruned).
    type: str
  root:
    description: Directory of mirror, releases and links.
    type: path
    required: true
  state:
    description:
      - C(fetched) makes sure that the commit is in the mirror, C(built) that its release is complete,
        C(current) that the link of this name points to it. C(pruned) only removes releases beyond O(keep),
        which C(current) does too.
    type: str
    choices: [fetched, built, current, pruned]
    default: current
  keep:
    description:
      - Complete releases that stay; always among them the current one, the previous one, and the one of the
        version that ds4-switch would roll back to.
    type: int
    default: 2
  in_use:
    description: Releases that a process runs from; they stay whatever O(keep) says.
    type: list
    elements: str
    default: []
  make_args:
    description: Arguments for make.
    type: list
    elements: str
    default: []
  user:
    description: Unprivileged account that builds. Needed for O(state=built) and O(state=current).
    type: str
  timeout_s:
    description: Seconds that a fetch or a build may take.
    type: int
    default: 1800
  host:
    description: Name of this Mac in the inventory; refusals begin with it.
    type: str
attributes:
  check_mode:
    support: full
    description: A commit that is not in the mirror yet cannot be checked without a fetch.
"""

EXAMPLES = r"""
- name: Build the pinned engine and switch to it
  ds4.fleet.ds4_engine:
    repo: https://github.com/antirez/ds4
    commit: 0aaea5a238fb41a35106a551e73c8409dfb751ac
    root: /opt/ds4/engine
    user: _ds4

- name: Remove releases that nothing can need any more
  ds4.fleet.ds4_engine:
    root: /opt/ds4/engine
    state: pruned
    keep: 2
"""

RETURN = r"""
release:
  description: The release of this commit.
  type: dict
  returned: unless the state is pruned
  contains:
    id:
      description: Name of its directory.
      type: str
    commit:
      description: Full commit hash (as given, when it could not be resolved in check mode).
      type: str
    path:
      description: Its directory.
      type: str
    complete:
      description: Whether it is built.
      type: bool
    capabilities:
      description: Flags, help topics and download targets, or null before it is built.
      type: dict
previous:
  description: Release that C(previous) points to.
  type: str
  returned: success
removed:
  description: Old releases that were removed.
  type: list
  elements: str
  returned: success
"""

import contextlib
import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.engine.build import Engine, EngineError
from ..module_utils.ds4agent.engine.release import linked_id, read_marker, release_id
from ..module_utils.ds4agent.mac.run import locked

LOCK = "/var/run/ds4-engine.lock"
LOCK_TIMEOUT_S = 5


def _describe(engine: Engine, commit: str, full: str | None) -> dict[str, Any]:
    name = release_id(full or commit)
    marker = read_marker(engine.releases / name) if full else None
    return {
        "id": name,
        "commit": full or commit,
        "path": str(engine.releases / name),
        "complete": marker is not None,
        "capabilities": marker.get("capabilities") if marker else None,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repo": {"type": "str"},
            "commit": {"type": "str"},
            "root": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["fetched", "built", "current", "pruned"],
                "default": "current",
            },
            "keep": {"type": "int", "default": 2},
            "in_use": {"type": "list", "elements": "str", "default": []},
            "make_args": {"type": "list", "elements": "str", "default": []},
            "user": {"type": "str"},
            "timeout_s": {"type": "int", "default": 1800},
            "host": {"type": "str"},
        },
        required_if=[
            ("state", "fetched", ["repo", "commit"]),
            ("state", "built", ["repo", "commit", "user"]),
            ("state", "current", ["repo", "commit", "user"]),
        ],
        supports_check_mode=True,
    )
    params = module.params
    of_host = params["host"] + ": " if params["host"] else ""
    commit = (params["commit"] or "").lower()
    if params["state"] != "pruned" and not re.match(r"^[0-9a-f]{7,40}$", commit):
        module.fail_json(msg="%sengine commit %r is not 7 to 40 hex digits" % (of_host, params["commit"]))
    engine = Engine(params["root"], params["timeout_s"])
    try:
        with _alone(module.check_mode):
            if params["state"] == "pruned":
                removed = _prune(module, engine)
                result = {
                    "changed": bool(removed),
                    "removed": removed,
                    "previous": linked_id(engine.root, "previous"),
                }
            else:
                result = _converge(module, engine, commit)
    except EngineError as error:
        module.fail_json(msg=of_host + str(error), detail=error.detail)
    except TimeoutError:
        module.fail_json(
            msg="%sanother run is working on the engine in %s: wait for it" % (of_host, engine.root)
        )
    except OSError as error:
        # No room, mostly.
        module.fail_json(msg="%sthe engine in %s: %s" % (of_host, engine.root, error))
    module.exit_json(**result)


def _alone(dry: bool) -> contextlib.AbstractContextManager[None]:
    """Held while releases are made and switched: two runs must not build one release."""
    return contextlib.nullcontext() if dry else locked(LOCK, LOCK_TIMEOUT_S)


def _prune(module: AnsibleModule, engine: Engine) -> list[str]:
    """Remove the releases that may go; returns their names."""
    removed = engine.prune(max(2, module.params["keep"]), module.params["in_use"])
    for name in removed if not module.check_mode else []:
        engine.remove(name)
    return removed


def _converge(module: AnsibleModule, engine: Engine, commit: str) -> dict[str, Any]:
    params, check = module.params, module.check_mode
    changed = False
    os.umask(0o022)
    before = linked_id(engine.root, "current")
    full = engine.resolve(commit)
    if not full:
        changed = True
        if not check:
            full = engine.fetch(params["repo"], commit)
    release = _describe(engine, commit, full)
    if params["state"] in ("built", "current") and not release["complete"]:
        changed = True
        if not check:
            engine.build(full or commit, params["make_args"], params["user"])
            release = _describe(engine, commit, full)
    removed = []
    if params["state"] == "current":
        if before != release["id"]:
            changed = True
            if not check:
                engine.switch(release["id"])
        if not (check and changed):
            removed = _prune(module, engine)
        changed = changed or bool(removed)
    after = release["id"] if params["state"] == "current" else before
    return {
        "changed": changed,
        "release": release,
        "previous": linked_id(engine.root, "previous"),
        "removed": removed,
        "diff": {"before": "current: %s\n" % before, "after": "current: %s\n" % after},
    }


if __name__ == "__main__":
    main()
