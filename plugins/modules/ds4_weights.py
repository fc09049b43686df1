#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Bring weights to the Mac, prove them once, and link them into the release."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_weights
short_description: Fetch, prove, stamp and link model files
description:
  - A file that is in place with a valid stamp costs two stat calls. One that is in place without a stamp is
    adopted after proof, also when it lay there before the volume was mounted. One that is missing is fetched
    in chunks by closed ranges, and goes on where an earlier run or C(fab prefetch) was cut off.
  - Proof is size, sha256 and GGUF header. A file that fails it is kept aside as C(.sha-mismatch), is never
    linked and never served.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
  - ds4.fleet.options.weights
options:
  files:
    required: true
  dir:
    description: Directory of the files; parts are kept there too, so that a rename puts them in place.
    type: path
    required: true
  owner:
    description: Owner of the files. The account that serves them should only read.
    type: str
    default: root
  group:
    description: Group of the files.
    type: str
    default: wheel
  method:
    description: C(direct) fetches itself; C(upstream) runs the engine's C(download_model.sh).
    type: str
    choices: [direct, upstream]
    default: direct
  target_name:
    description: Target of download_model.sh, for O(method=upstream).
    type: str
  release_dir:
    description: Release of the engine that has download_model.sh, for O(method=upstream).
    type: path
  link:
    description: Link to make once everything is proven, C(path) and C(target).
    type: dict
  chunk_mib:
    description:
      - Size of a chunk in MiB, the unit of resumption. It is that of C(fab prefetch), so that each continues
        the parts of the other.
    type: int
    default: 16
  rate_limit_mbps:
    description: Cap in megabits per second, 0 for none.
    type: int
    default: 0
  token_file:
    description: File with a token for the sources, mode 0600.
    type: path
  on_volume:
    description: O(dir) is the mount point of a volume; the module then waits until it is mounted.
    type: bool
    default: false
  timeout_s:
    description: Seconds that download_model.sh may take.
    type: int
    default: 86400
"""

EXAMPLES = r"""
- name: Bring the weights of the plan
  ds4.fleet.ds4_weights:
    dir: /opt/ds4/models
    files: "{{ ds4_plan.weights.files }}"
    link: "{{ ds4_plan.weights.link }}"
"""

RETURN = r"""
files:
  description: What was done per file.
  type: list
  elements: dict
  returned: success
  contains:
    path:
      description: Where it is.
      type: str
    sha256:
      description: What it was proven to be (null in check mode when it is not in place).
      type: str
    fetched_bytes:
      description: Bytes that came over the network.
      type: int
    hashed_bytes:
      description: Bytes that were read from the disk to be hashed.
      type: int
    action:
      description: C(kept), C(adopted), C(fetched), or in check mode C(would adopt) and C(would fetch).
      type: str
    source:
      description: URL that delivered the last byte, or the directory that the file was taken over from.
      type: str
linked:
  description: Whether the link was made or changed.
  type: bool
  returned: success
"""

import contextlib
import grp
import os
import pwd
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.engine.build import Engine, EngineError
from ..module_utils.ds4agent.mac.run import locked
from ..module_utils.ds4agent.weights.fetch import LOCK, LOCK_TIMEOUT_S, Fetch
from ..module_utils.ds4agent.weights.install import InstallError
from ..module_utils.ds4agent.weights.progress import Unwatched
from ..module_utils.ds4agent.weights.script import NAME, Script

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import FetchOrder

GIT_TIMEOUT_S = 60
#: So long a volume may take to be mounted while somebody waits.
VOLUME_S = 120
MIB = 1024 * 1024


def about_script(params: Mapping[str, Any], fetch: Fetch) -> str:
    """Why the script that root is about to run is not the engine's own, "" when it is or is not needed."""
    release = params["release_dir"]
    if params["method"] == "direct" or all(fetch.installer.look(one) == "proven" for one in params["files"]):
        return ""
    with contextlib.suppress(EngineError):
        if Engine(os.path.dirname(os.path.dirname(release)), GIT_TIMEOUT_S).has_from_commit(release, NAME):
            return ""
    sentence = "%s/%s is not the one of its commit and is not run: delete that release and run site.yml"
    return sentence % (release, NAME)


def alone(dry: bool) -> contextlib.AbstractContextManager[None]:
    """Held while files are looked at and changed: two runs must not write one part."""
    return contextlib.nullcontext() if dry else locked(LOCK, LOCK_TIMEOUT_S)


def fetch_of(params: dict[str, Any]) -> Fetch:
    """The fetch of an order that names no other Macs."""
    order: FetchOrder = {
        "id": "",
        "dir": params["dir"],
        "files": params["files"],
        "peers": [],
        "chunk_bytes": params["chunk_mib"] * MIB,
        "uid": pwd.getpwnam(params["owner"]).pw_uid,
        "gid": grp.getgrnam(params["group"]).gr_gid,
        "rate_limit_mbps": params["rate_limit_mbps"],
        "token_file": params["token_file"] or "",
        "on_volume": params["on_volume"],
    }
    return Fetch("", order, Unwatched(order))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True},
            "dir": {"type": "path", "required": True},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "wheel"},
            "method": {"type": "str", "choices": ["direct", "upstream"], "default": "direct"},
            "target_name": {"type": "str"},
            "release_dir": {"type": "path"},
            "link": {"type": "dict"},
            "chunk_mib": {"type": "int", "default": 16},
            "rate_limit_mbps": {"type": "int", "default": 0},
            "token_file": {"type": "path", "no_log": False},
            "timeout_s": {"type": "int", "default": 86400},
            "on_volume": {"type": "bool", "default": False},
        },
        required_if=[("method", "upstream", ["target_name", "release_dir"])],
        supports_check_mode=True,
    )
    params = module.params
    if params["chunk_mib"] < 1:
        module.fail_json(msg="chunk_mib must be 1 or more")
    fetch = fetch_of(params)
    installer, receive = fetch.installer, fetch.receive
    if params["method"] == "upstream":
        script = Script(installer, params["release_dir"], params["target_name"], params["timeout_s"])
        receive = script.receive
    before, after = [], []
    results = []
    objection = about_script(params, fetch)
    if objection and not module.check_mode:
        module.fail_json(msg=objection)
    try:
        with alone(module.check_mode):
            if not module.check_mode:
                fetch.await_volume(VOLUME_S)
            for wanted in params["files"]:
                state = installer.look(wanted)
                before.append("%s %s\n" % (wanted["name"], state))
                if module.check_mode and state != "proven":
                    result = installer.would(wanted, state)
                else:
                    result = fetch.bring(wanted, state, receive)
                results.append(result)
                after.append("%s proven\n" % wanted["name"])
            linked = installer.link(params["link"], dry=module.check_mode) if params["link"] else False
    except InstallError as error:
        module.fail_json(msg=str(error), files=results, **error.facts)
    except TimeoutError:
        module.fail_json(msg="another run is bringing weights to %s: wait for it" % params["dir"])
    module.exit_json(
        changed=linked or any(item["action"] != "kept" for item in results),
        files=results,
        linked=linked,
        diff={"before": "".join(before), "after": "".join(after)},
    )


if __name__ == "__main__":
    main()
