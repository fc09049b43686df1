#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Prove that the engine works: by hand before the server starts, and by its answers after."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_verify
short_description: Prove that the engine answers as planned
description:
  - C(smoke) runs one prompt through the command line tool as the service account. It is skipped while a
    server runs, because both take the same lock and twice the memory.
  - C(serving) waits for the server with a deadline and watches its job for a crash loop, then compares what
    it serves, how it was started, which weights it has open, where it listens and how much memory is left
    with the plan, and asks for one deterministic chat completion.
  - Changes nothing on the Mac.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.info
options:
  state:
    description: What to prove.
    type: str
    choices: [smoke, serving]
    default: serving
  server:
    description: Section C(server) of the plan.
    type: dict
    required: true
  verify:
    description: Section C(verify) of the plan.
    type: dict
    required: true
  weights:
    description: Files that the server must have open.
    type: list
    elements: path
    default: []
  user:
    description: Service account, for O(state=smoke).
    type: str
attributes:
  check_mode:
    support: full
    description: Proves nothing, because nothing was started.
"""

EXAMPLES = r"""
- name: Prove that the server answers as planned
  ds4.fleet.ds4_verify:
    server: "{{ ds4_plan.server }}"
    verify: "{{ ds4_plan.verify }}"
    weights: ["{{ ds4_plan.weights.main }}"]
"""

RETURN = r"""
figures:
  description: What was measured; null where it was not.
  type: dict
  returned: success
  sample:
    ready_s: 14.2
    answer: Paris
    completion_tokens: 2
    tokens_per_s: 26.4
    headroom_mib: 9120
skipped_because:
  description: Why nothing was proven.
  type: str
  returned: when skipped
"""

import os
import pwd
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.engine import answers
from ..module_utils.ds4agent.engine.serving import VerifyError, prove_serving
from ..module_utils.ds4agent.mac import output
from ..module_utils.ds4agent.mac.launchd import JobError, Launchd

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import Server, Verify

#: One short answer and the engine's own account of loading the model.
SMOKE_BYTES = 1024 * 1024
ANSWER_LETTERS = 1000


def prove_by_hand(server: Server, verify: Verify, user: str) -> dict[str, Any]:
    """Figures of one run of the command line tool as the service account."""
    account = pwd.getpwnam(user)
    environment = dict(server["env"], PATH="/usr/bin:/bin:/usr/sbin:/sbin", LANG="C")
    drop: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    argv = server["smoke_argv"]
    began = time.monotonic()
    try:
        done = output.run(
            argv,
            verify["ready_s"],
            max_bytes=SMOKE_BYTES,
            cwd=os.path.dirname(argv[0]),
            env=environment,
            **(drop if os.geteuid() != account.pw_uid else {}),
        )
    except OSError as error:
        raise VerifyError("%s cannot be run: %s" % (argv[0], error.strerror)) from None
    if done.cut == output.LATE:
        raise VerifyError("the smoke test did not end within %d s" % verify["ready_s"])
    if done.cut:
        raise VerifyError("the smoke test was ended: it printed more than %d bytes" % SMOKE_BYTES)
    text = done.stdout.strip()
    if done.returncode != 0 or not text:
        said = done.stderr.strip().splitlines()[-answers.LOG_LINES :] or ["it said nothing"]
        raise VerifyError(
            "the smoke test as %s ended with status %d and %d letters (%s), the server was not started:\n%s"
            % (user, done.returncode, len(text), said[-1], "\n".join(said))
        )
    figures = {"seconds": round(time.monotonic() - began, 2), "answer": text[:ANSWER_LETTERS]}
    figures.update(answers.smoke_figures(done.stderr))
    return figures


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["smoke", "serving"], "default": "serving"},
            "server": {"type": "dict", "required": True},
            "verify": {"type": "dict", "required": True},
            "weights": {"type": "list", "elements": "path", "default": []},
            "user": {"type": "str"},
        },
        required_if=[("state", "smoke", ["user"])],
        supports_check_mode=True,
    )
    params = module.params
    figures: Mapping[str, Any]
    if module.check_mode:
        module.exit_json(changed=False, figures={}, skipped_because="check mode starts nothing")
    try:
        if params["state"] == "serving":
            figures = prove_serving(params["server"], params["verify"], params["weights"])
        else:
            job = Launchd(0).look(params["server"]["label"])
            if job and job["pid"] is not None:
                module.exit_json(
                    changed=False, figures={}, skipped_because="a server runs and holds the lock"
                )
            figures = prove_by_hand(params["server"], params["verify"], params["user"])
    except (VerifyError, JobError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, figures=figures)


if __name__ == "__main__":
    main()
