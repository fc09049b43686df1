#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Load, start, restart and remove system jobs of launchd."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_launchd
short_description: Bring launchd jobs of the system domain to a state
description:
  - Uses bootstrap, bootout, enable and kickstart, and polls until launchd says that a step is done. Nothing
    is restarted unless a file that it runs with has changed or its label is asked for.
  - Corrects owner and mode of the plist, and does not write it.
  - The engine is never stopped under its clients. With O(drain) its intake is closed first and clients may go
    on for the drain time. Then the endpoints of the tunnels notify the clients that are left.
  - An engine that reads prompts a second after it was told to stop is killed, as no client gets an answer.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  jobs:
    description: Jobs in the order in which they are handled.
    type: list
    elements: dict
    required: true
    suboptions:
      label:
        description: Label of the job.
        type: str
        required: true
      plist:
        description: Its file.
        type: path
        required: true
      state:
        description:
          - C(started) is loaded and has a process, C(loaded) is loaded (jobs that run once or by the clock),
            C(absent) is not loaded.
        type: str
        choices: [started, loaded, absent]
        required: true
      restart_on:
        description: Paths whose change means a restart.
        type: list
        elements: path
        default: []
      stage:
        description: The stage it belongs to; not used here, so that a plan's entry can be passed as it is.
        type: str
  changed_paths:
    description: Paths that were changed in this run.
    type: list
    elements: path
    default: []
  restart:
    description: Labels to restart in any case.
    type: list
    elements: str
    default: []
  drain:
    description: How the engine is stopped, where its job is one of O(jobs).
    type: dict
    suboptions:
      label:
        description: Label of the engine's job. That of O(drain.root) unless it is given.
        type: str
      root:
        description: Root of all that is ours on the Mac.
        type: path
        default: /opt/ds4
      drain_s:
        description: Seconds for which its clients may go on.
        type: int
        required: true
      notice_s:
        description: Seconds within which tunnels have notified their clients.
        type: int
        required: true
  timeout_s:
    description: Seconds for bootstrap to succeed once the old instance is gone.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Run the server with what is in place now
  ds4.fleet.ds4_launchd:
    jobs:
      - label: com.ds4fleet.server
        plist: /Library/LaunchDaemons/com.ds4fleet.server.plist
        state: started
        restart_on: [/opt/ds4/etc/server.conf]
    changed_paths: [/opt/ds4/etc/server.conf]
    drain: {drain_s: 120, notice_s: 3}
"""

RETURN = r"""
jobs:
  description: What was done per job.
  type: list
  elements: dict
  returned: success
  contains:
    label:
      description: Label of the job.
      type: str
    steps:
      description: Steps taken (or that would be taken, in check mode), none when it was right already.
      type: list
      elements: str
    notified:
      description:
        - Clients that were still at work at the end of the drain time, of which endpoints notified theirs;
          null where their number is not known.
      type: int
      returned: when the engine was stopped
    killed:
      description: Whether the engine was killed at a prompt that no client waits for any more.
      type: bool
      returned: when the engine was stopped
    not_notified:
      description:
        - Programs with their users, such as C(curl of alice), that were connected to the engine past all
          endpoints when it was stopped, at most five.
      type: list
      elements: str
      returned: when the engine was stopped
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming
from ..module_utils.ds4agent.mac.launchd import JobError, Launchd, describe, pid_of, settle_plist
from ..module_utils.ds4agent.switch import unnotified
from ..module_utils.ds4agent.switch.drain import Drain
from ..module_utils.ds4agent.switch.in_vain import NothingInVain
from ..module_utils.ds4agent.switch.state import Places

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import JobFacts, JobOrder

ENGINES = tuple(naming.label(root, "server") for root in naming.ROOTS)


def converge(module: AnsibleModule, launchd: Launchd, job: JobOrder) -> tuple[dict[str, Any], str, str]:
    """Bring one job to its state; returns its result and the two sides of the diff."""
    params = module.params
    restart = job["label"] in params["restart"] or bool(set(job["restart_on"]) & set(params["changed_paths"]))
    now = launchd.look(job["label"])
    steps = launchd.steps(job, now, restart)
    result = {"label": job["label"], "steps": steps}
    before = describe(job, now)
    if (
        job["state"] != "absent"
        and os.path.exists(job["plist"])
        and settle_plist(job["plist"], module.check_mode)
    ):
        steps.insert(0, "plist owner and mode")
    if module.check_mode:
        after = before if not steps else "%s: %s\n" % (job["label"], ", ".join(steps))
    else:
        result.update(carry_out(params["drain"], launchd, job, now, steps))
        after = describe(job, launchd.look(job["label"])) if steps else before
        if "bootout" in steps and "bootstrap" in steps:
            after = after.rstrip("\n") + " (restarted)\n"
    return result, before, after


def carry_out(
    drain: Mapping[str, Any] | None,
    launchd: Launchd,
    job: JobOrder,
    now: JobFacts | None,
    steps: Sequence[str],
) -> dict[str, Any]:
    """Take the steps; {notified, not_notified} where the engine was stopped for them."""
    stops = "bootout" in steps and pid_of(now) is not None
    if not stops or not drain or (drain["label"] or naming.label(drain["root"], "server")) != job["label"]:
        return take(launchd, job, steps)
    going = Drain(
        Places(drain["root"]),
        lambda: pid_of(launchd.look(job["label"])),
        drain["drain_s"],
        drain["notice_s"],
    )
    going.close_for_a_stop(
        reason="the engine is restarted" if "bootstrap" in steps else "the engine is stopped"
    )
    try:
        notified = going.finish()
        past = going.not_notified() if notified != 0 else []
        return dict(take(launchd, job, steps), notified=notified, not_notified=past)
    finally:
        going.open()


def take(launchd: Launchd, job: JobOrder, steps: Sequence[str]) -> dict[str, Any]:
    """Take the steps; {killed} where an engine went on reading prompts after it was told to stop."""
    done: dict[str, Any] = {}
    for step in steps:
        if step == "bootout" and job["label"] in ENGINES:
            with NothingInVain(lambda: pid_of(launchd.look(job["label"]))) as ending:
                launchd.do(step, job)
            done["killed"] = ending.killed
        elif step != "plist owner and mode":
            launchd.do(step, job)
    return done


def warning(result: Mapping[str, Any], drain_s: int) -> str:
    """On clients that were left at the end of the drain time, from the result of a job."""
    past = unnotified.sentence(result["not_notified"])
    return "%s: %s clients were still at work after %d s %s" % (
        result["label"],
        result["notified"] or "perhaps some",
        drain_s,
        "when the engine was stopped; " + past if past else "and were notified that the engine stops",
    )


def main() -> None:
    job_spec = {
        "label": {"type": "str", "required": True},
        "plist": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["started", "loaded", "absent"], "required": True},
        "restart_on": {"type": "list", "elements": "path", "default": []},
        "stage": {"type": "str"},
    }
    drain_spec = {
        "label": {"type": "str"},
        "root": {"type": "path", "default": "/opt/ds4"},
        "drain_s": {"type": "int", "required": True},
        "notice_s": {"type": "int", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "jobs": {"type": "list", "elements": "dict", "required": True, "options": job_spec},
            "changed_paths": {"type": "list", "elements": "path", "default": []},
            "restart": {"type": "list", "elements": "str", "default": []},
            "drain": {"type": "dict", "options": drain_spec},
            "timeout_s": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    launchd = Launchd(module.params["timeout_s"])
    results, before, after = [], "", ""
    try:
        for job in module.params["jobs"]:
            result, was, becomes = converge(module, launchd, job)
            results.append(result)
            if result.get("notified", 0) != 0:
                module.warn(warning(result, module.params["drain"]["drain_s"]))
            if result.get("killed"):
                module.warn("%s was killed at a prompt that no client waits for any more" % job["label"])
            before += was
            after += becomes
    except (JobError, OSError) as error:
        module.fail_json(msg=str(error), jobs=results)
    changed = any(result["steps"] for result in results)
    module.exit_json(changed=changed, jobs=results, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
