#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The GPU wired limit, now; at every boot a launchd job sets it again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_memory
short_description: Set the GPU wired limit now
description:
  - Sets C(iogpu.wired_limit_mb), which macOS forgets at a reboot; the job com.ds4fleet.wired sets it then.
  - A limit is never lowered under a running engine. RV(postponed) then says so, and the next run that finds
    no engine running lowers it.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  wired_limit_mib:
    description: The limit in MiB. V(0) is macOS's own policy.
    type: int
    required: true
  root:
    description: Root of all that is ours on the Mac. Its engine must not run while the limit is lowered.
    type: path
    default: /opt/ds4
"""

EXAMPLES = r"""
- name: Let the GPU wire 112 GiB
  ds4.fleet.ds4_memory:
    wired_limit_mib: 114688
"""

RETURN = r"""
wired_limit_mib:
  description: The limit in MiB that holds now, or with check mode would.
  returned: success
  type: int
  sample: 114688
postponed:
  description: The wanted limit is lower than the present one and the engine runs, so it was left.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming
from ..module_utils.ds4agent.mac import parse
from ..module_utils.ds4agent.mac.run import run
from ..module_utils.ds4agent.mac.wired_limit import NAME, decide


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "wired_limit_mib": {"type": "int", "required": True},
            "root": {"type": "path", "default": "/opt/ds4"},
        },
        supports_check_mode=True,
    )
    wanted = module.params["wired_limit_mib"]
    result = run("sysctl", NAME, "hw.memsize")
    values = parse.sysctl(result.out)
    if NAME not in values or "hw.memsize" not in values:
        module.fail_json(msg="this Mac does not tell its GPU wired limit: %s" % result.sentence())
    present, memory_mib = int(values[NAME]), int(values["hw.memsize"]) >> 20
    server = naming.label(module.params["root"], "server")
    job = parse.launchctl_print(run("launchctl", "print", "system/" + server).out)
    verdict = decide(wanted, present, memory_mib, job["pid"] is not None)
    if verdict == "refuse":
        module.fail_json(msg="a wired limit of %d MiB does not fit a Mac of %d MiB" % (wanted, memory_mib))
    changed = verdict == "set"
    if changed and not module.check_mode:
        result = run("sysctl", "%s=%d" % (NAME, wanted))
        if not result.ok or parse.sysctl(run("sysctl", NAME).out).get(NAME) != str(wanted):
            module.fail_json(msg="the wired limit was not taken: %s" % result.sentence())
    lines = {"before": "%s: %d\n" % (NAME, present), "after": "%s: %d\n" % (NAME, wanted)}
    module.exit_json(
        changed=changed,
        wired_limit_mib=wanted if changed else present,
        postponed=verdict == "postpone",
        diff=lines if changed else {},
    )


if __name__ == "__main__":
    main()
