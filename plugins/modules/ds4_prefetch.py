#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Give a Mac its part in a staging run."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_prefetch
short_description: Give a Mac orders and keys for the detached fetch of weights
description:
  - The work itself is done by C(ds4-fetch) under launchd, and by C(ds4-seed) behind ssh on the Macs that
    already have something; this module makes keys and writes orders.
  - M(ds4.fleet.ds4_prefetch_info) says how far the fetch is, and what the Mac holds.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
  - ds4.fleet.options.root
  - ds4.fleet.options.weights
options:
  state:
    description:
      - C(prepared) makes the Mac's key. C(ordered) writes order, host keys and the keys that may ask.
        C(marked) says in the stamps of O(files) what they are prefetched for. Both take the mark from what is
        in use by now.
      - C(started) makes sure that the fetch works on the order, and leaves one alone that does. C(paused),
        C(resumed) and C(aborted) give the fetch that order. C(closed) removes the keys and the order.
    type: str
    choices: [prepared, ordered, marked, started, paused, resumed, aborted, closed]
    required: true
  keys_path:
    description: File with the public keys of the Macs that may ask, for sshd. Else that of O(root).
    type: path
  files:
    default: []
  prefetched_for:
    description: Id of the model that they are for, for O(state=marked).
    type: str
    default: ""
  order:
    description: The order, for O(state=ordered).
    type: dict
  keys:
    description: Public keys that may ask this Mac, for O(state=ordered).
    type: list
    elements: str
    default: []
  known_hosts:
    description: Host keys of the other Macs, for O(state=ordered).
    type: str
    default: ""
  token:
    description:
      - A token for the sources, for O(state=ordered). It is kept in a file of mode 0600 until the fetch ends.
    type: str
    default: ""
attributes:
  diff_mode:
    description: Shows no differences.
    support: none
"""

EXAMPLES = r"""
- name: Pause the fetch
  ds4.fleet.ds4_prefetch:
    state: paused
"""

RETURN = r"""
status:
  description: What the fetch says of itself by then; empty when there is none.
  type: dict
  returned: success
"""

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming
from ..module_utils.ds4agent.mac.launchd import JobError, Launchd
from ..module_utils.ds4agent.mac.run import run_all
from ..module_utils.ds4agent.mac.safe import replace
from ..module_utils.ds4agent.weights import stamp as weights_stamp
from ..module_utils.ds4agent.weights import store, transfer

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import FetchOrder, JobOrder

KEYGEN = "/usr/bin/ssh-keygen"
LAUNCHD_TIMEOUT_S = 30
TOKEN = "token.env"
WORDS = {"paused": "pause", "resumed": "run", "aborted": "abort"}


class Prefetch:
    """The folder of a transfer on this Mac."""

    def __init__(self, folder: str, keys_path: str, dry: bool) -> None:
        self.folder = folder
        self.keys_path = keys_path
        self.dry = dry
        self.changed = False

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Make the file so; whether it was otherwise is in `changed`."""
        try:
            with open(path) as handle:
                if handle.read() == text:
                    return
        except OSError:
            pass
        self.changed = True
        if not self.dry:
            replace(path, text.encode(), mode, 0, 0)

    def status(self) -> dict[str, Any]:
        return transfer.status(self.folder)

    def prepare(self) -> None:
        """Make the Mac's key; only its public part ever leaves."""
        path = self.path("key")
        if not os.path.exists(path):
            self.changed = True
            if self.dry:
                return
            command = [KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", "ds4-prefetch", "-f", path]
            result = run_all({"it": command})["it"]
            if not result.ok:
                raise ValueError(result.sentence())
        if not transfer.public_key(self.folder):
            raise ValueError("%s has no public half; delete it, and the next run makes a new one" % path)

    def order(self, order: FetchOrder, keys: Iterable[str], known_hosts: str, token: str = "") -> None:
        slots = self.path("slots")
        if not self.dry:
            os.makedirs(slots, mode=0o755, exist_ok=True)
            for number in range(order["seed_slots"]):
                os.close(os.open(os.path.join(slots, str(number)), os.O_CREAT | os.O_RDONLY, 0o644))
        self.put(self.path("known_hosts"), known_hosts)
        self.put(self.keys_path, "".join("restrict %s\n" % key for key in keys))
        state = self.status().get("state")
        if state in ("failed", "aborted") and not self.dry:
            os.unlink(self.path("status.json"))
        # Another order that is done and was not closed says nothing about this one.
        is_done = state == "done" and transfer.read(self.path("order.json")).get("id") == order["id"]
        if token and not is_done:
            self.put(self.path(TOKEN), "HF_TOKEN=%s\n" % token, 0o600)
        self.put(self.path("order.json"), json.dumps(order, sort_keys=True))

    def start(self, label: str) -> None:
        """Leave a fetch alone that works on this order; start one otherwise."""
        order, status = transfer.read(self.path("order.json")), self.status()
        if status.get("state") in ("done", "paused", "fetching", "proving", "starting"):
            return
        self.changed = True
        if self.dry or not order:
            return
        self.put(self.path("control"), "run")
        launchd = Launchd(LAUNCHD_TIMEOUT_S)
        job: JobOrder = {"label": label, "plist": naming.plist(label), "state": "started"}
        now = launchd.look(label)
        for step in launchd.steps(job, now, restart=bool(now and now["pid"])):
            launchd.do(step, job)

    def unmark_used(self, root: str) -> None:
        """What was prefetched and is used by now is kept for its use alone, and can go when that is over."""
        for name in store.users(root):
            self.mark(os.path.join(root, "models", name), "")

    def mark(self, path: str, prefetched_for: str) -> None:
        if weights_stamp.mark(path, prefetched_for, self.dry):
            self.changed = True

    def close(self) -> None:
        self.put(self.keys_path, "")
        for name in ("order.json", "status.json", "control", TOKEN):
            if os.path.exists(self.path(name)):
                self.changed = True
                if not self.dry:
                    os.unlink(self.path(name))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "required": True,
                "choices": ["prepared", "ordered", "marked", "started", *WORDS, "closed"],
            },
            "keys_path": {"type": "path", "no_log": False},
            "files": {"type": "list", "elements": "dict", "default": []},
            "prefetched_for": {"type": "str", "default": ""},
            "root": {"type": "path", "default": "/opt/ds4"},
            "order": {"type": "dict"},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "known_hosts": {"type": "str", "default": "", "no_log": False},
            "token": {"type": "str", "default": "", "no_log": True},
        },
        required_if=[("state", "ordered", ["order"])],
        supports_check_mode=True,
    )
    params, state = module.params, module.params["state"]
    root = params["root"]
    keys_path = params["keys_path"] or naming.seed_keys(root)
    prefetch = Prefetch(naming.transfer(root), keys_path, module.check_mode)
    try:
        if state == "prepared":
            prefetch.prepare()
        elif state == "marked":
            prefetch.unmark_used(params["root"])
            for wanted in params["files"]:
                prefetch.mark(wanted["path"], params["prefetched_for"])
        elif state == "ordered":
            prefetch.unmark_used(params["root"])
            prefetch.order(params["order"], params["keys"], params["known_hosts"], params["token"])
        elif state == "started":
            prefetch.start(naming.label(params["root"], "fetch"))
        elif state == "closed":
            prefetch.close()
        elif state in WORDS and os.path.exists(prefetch.path("order.json")):
            prefetch.put(prefetch.path("control"), WORDS[state])
    except (JobError, ValueError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=prefetch.changed, status=prefetch.status())


if __name__ == "__main__":
    main()
