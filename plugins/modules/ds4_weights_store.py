#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Prove anew what is in the directory of weights, or free what is not needed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_weights_store
short_description: Verify and prune the directory of weights
description:
  - Verifies or prunes all files of the directory. M(ds4.fleet.ds4_weights) brings the files of one plan.
  - A served file is never touched, whatever is found out about it.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.options.root
  - ds4.fleet.options.safe_mode
options:
  state:
    description:
      - C(verified) reads files anew past the cache, giving way to a running engine, renews the stamps of
        those that are what they should be and withdraws the others'.
      - C(pruned) deletes what neither this Mac nor O(keep) needs, and says why the rest stays. What was
        prefetched stays until it is used or O(prefetched) is true. Directories of KV entries go with the last
        version that could use them.
    type: str
    choices: [verified, pruned]
    required: true
  known:
    description: What the catalogue says by file name, each C(bytes), C(sha256) and C(header).
    type: dict
    default: {}
  keep:
    description: Names that the plan of this Mac has, for O(state=pruned).
    type: list
    elements: str
    default: []
  names:
    description: Only these, where it is not empty.
    type: list
    elements: str
    default: []
  wrong:
    description: Whether to delete copies that failed their proof and were kept aside, for O(state=pruned).
    type: bool
    default: false
  prefetched:
    description: Whether to delete prefetched files that nothing else needs yet, for O(state=pruned).
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Says what would be read or deleted, whatever O(safe_mode) is.
  diff_mode:
    description: The list of files in the result says what was done to each.
    support: none
"""

EXAMPLES = r"""
- name: Hash all weights anew
  ds4.fleet.ds4_weights_store:
    state: verified
"""

RETURN = r"""
files:
  description:
    - Per file or directory of KV entries (C(kv/...)) C(name), C(bytes), C(used), who needs it, and C(state).
    - Verified, C(state) is C(proven), C(wrong), C(changed), C(unknown) or C(unread). Pruned, it is C(kept) or
      C(freed), in check mode C(free). C(why) gives the reason.
  type: list
  elements: dict
  returned: success
held_by:
  description: The sentence about a rollout that has this Mac, empty when none has.
  type: str
  returned: success
safe_mode:
  description: As it was given.
  type: bool
  returned: success
"""

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming
from ..module_utils.ds4agent.mac.launchd import JobError, Launchd
from ..module_utils.ds4agent.mac.run import locked
from ..module_utils.ds4agent.saved_state import StateError
from ..module_utils.ds4agent.weights import store
from ..module_utils.ds4agent.weights.fetch import LOCK, LOCK_TIMEOUT_S

if TYPE_CHECKING:
    from ..module_utils.ds4agent.weights.store import Item

LAUNCHD_TIMEOUT_S = 30


def verify(
    folder: str,
    chosen: Collection[Item],
    needed: Mapping[str, list[str]],
    params: Mapping[str, Any],
    dry: bool,
) -> tuple[list[dict[str, Any]], bool]:
    """(results, whether a stamp was written or withdrawn)."""
    paths = {item.name: os.path.join(folder, item.name) for item in chosen}
    wanted = {name: store.expected(path, params["known"]) for name, path in paths.items()}
    total = sum(os.stat(paths[name]).st_size for name in paths if wanted[name])
    serving = Launchd(LAUNCHD_TIMEOUT_S).look(naming.label(params["root"], "server"))
    if serving and serving["pid"]:
        store.give_way()
    progress = store.Progress(total)
    results = []
    try:
        for name, path in paths.items():
            progress.values["file"] = name
            state, why = store.prove(path, wanted[name], progress, dry)
            results.append(result(name, os.stat(path).st_size, state, why, needed))
    finally:
        progress.end()
    return results, any(item["state"] in ("proven", "wrong") for item in results)


def prune(
    folder: str, chosen: Collection[Item], needed: dict[str, list[str]], params: Mapping[str, Any], dry: bool
) -> tuple[list[dict[str, Any]], bool]:
    """(results, whether something was deleted)."""
    for name in params["keep"]:
        needed.setdefault(name, []).append("planned")
    prefetched = store.prefetched(params["root"])
    if not params["prefetched"]:
        for name, why in prefetched.items():
            needed.setdefault(name, [why])
    can_go = dict(store.needless(chosen, needed, params["known"], params["wrong"]))
    results = []
    for item in chosen:
        if item not in can_go:
            why = ", ".join(needed.get(item.of, ())) or "not of the catalogue, or kept to be looked at"
            results.append(result(item.name, item.bytes, "kept", why, needed))
            continue
        if not dry:
            store.remove(folder, item)
        why = prefetched.get(item.name, can_go[item])
        results.append(result(item.name, item.bytes, "free" if dry else "freed", why, needed))
    return results, bool(can_go)


def result(name: str, size: int, state: str, why: str, needed: Mapping[str, list[str]]) -> dict[str, Any]:
    return {"name": name, "bytes": size, "state": state, "why": why, "used": needed.get(name, [])}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["verified", "pruned"], "required": True},
            "root": {"type": "path", "default": "/opt/ds4"},
            "known": {"type": "dict", "default": {}},
            "keep": {"type": "list", "elements": "str", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "wrong": {"type": "bool", "default": False},
            "prefetched": {"type": "bool", "default": False},
            "safe_mode": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params, dry = module.params, module.check_mode
    root = params["root"]
    folder = root + "/models"
    held = store.held_by(root)
    try:
        if params["state"] == "verified":
            found = [item for item in store.items(folder) if item.kind in ("proven", "unproven")]
            chosen = [item for item in found if not params["names"] or item.name in params["names"]]
            results, changed = verify(folder, chosen, store.users(root), params, dry)
        elif dry:
            results, changed = prune(folder, named(folder, params), store.users(root), params, dry)
        elif params["safe_mode"]:
            module.fail_json(msg="ds4_safe_mode is true, so nothing is deleted")
        elif held:
            module.fail_json(msg="%s: nothing was deleted" % held)
        else:
            with locked(LOCK, LOCK_TIMEOUT_S):
                results, changed = prune(folder, named(folder, params), store.users(root), params, dry)
    except TimeoutError:
        module.fail_json(msg="weights are being brought to %s: nothing was deleted; wait for it" % folder)
    except (OSError, JobError, StateError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, files=results, held_by=held, safe_mode=params["safe_mode"])


def named(folder: str, params: Mapping[str, Any]) -> list[Item]:
    """The items that are asked about."""
    found = store.items(folder) + store.kv_items(params["root"])
    return [item for item in found if not params["names"] or item.name in params["names"]]


if __name__ == "__main__":
    main()
