#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""A Mac that stays awake, comes back after a power cut, and does not reboot by itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_power
short_description: Keep power, update and time zone settings of a server
description:
  - Sets what differs with C(pmset -a), and nothing when all is as wanted.
  - A setting that this kind of Mac does not have is reported in RV(unknown) and left.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  settings:
    description: Settings of C(pmset) by name.
    type: dict
    default: {}
  updates:
    description:
      - V(hold) holds back updates of macOS, which restart the Mac. The data of XProtect and security
        responses still come.
      - V(off) switches these off too, and V(keep) leaves all as it is.
    type: str
    choices: [hold, "off", keep]
    default: hold
  timezone:
    description: Time zone such as V(Asia/Tokyo). Empty leaves the Mac's.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Keep the Mac awake
  ds4.fleet.ds4_power:
    settings:
      sleep: 0
      autorestart: 1
    timezone: Asia/Tokyo
"""

RETURN = r"""
unknown:
  description: Settings that this Mac does not have.
  returned: success
  type: list
  elements: str
"""

import os
import plistlib

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import parse
from ..module_utils.ds4agent.mac import updates as settings
from ..module_utils.ds4agent.mac.run import run


def timezone() -> str | None:
    try:
        return parse.timezone(os.readlink("/etc/localtime"))
    except OSError:
        return None


def update_switches() -> dict[str, bool]:
    try:
        with open(settings.UPDATE_DOMAIN + ".plist", "rb") as stream:
            found = plistlib.load(stream)
    except FileNotFoundError:
        return {}
    return {key: bool(found[key]) for key in settings.UPDATE_KEYS if key in found}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "default": {}},
            "updates": {"type": "str", "choices": ["hold", "off", "keep"], "default": "hold"},
            "timezone": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params, commands, before, after = module.params, [], [], []
    present = parse.pmset(run("pmset", "-g").out)
    capabilities = parse.pmset_capabilities(run("pmset", "-g", "cap").out)
    wrong, unknown = settings.power(params["settings"], present, capabilities)
    if wrong:
        words = [str(word) for pair in wrong.items() for word in pair]
        commands.append(("pmset", "-a", *words))
        before += ["%s: %s" % (key, present.get(key)) for key in wrong]
        after += ["%s: %s" % pair for pair in wrong.items()]
    switches = update_switches()
    turned = settings.updates(switches, params["updates"])
    commands += settings.update_commands(turned)
    before += ["%s: %s" % (key, switches.get(key)) for key in turned]
    after += ["%s: %s" % pair for pair in turned.items()]
    zone = timezone()
    if params["timezone"] and params["timezone"] != zone:
        commands.append(("systemsetup", "-settimezone", params["timezone"]))
        before.append("time zone: %s" % zone)
        after.append("time zone: %s" % params["timezone"])
    for command in [] if module.check_mode else commands:
        result = run(*command)
        if not result.ok:
            module.fail_json(msg=result.sentence())
    # systemsetup says a wrong zone on its output and ends well all the same.
    if params["timezone"] and not module.check_mode and timezone() != params["timezone"]:
        module.fail_json(msg="the time zone %s was not taken; is it spelt right?" % params["timezone"])
    diff = {
        "before": "".join(line + "\n" for line in before),
        "after": "".join(line + "\n" for line in after),
    }
    module.exit_json(changed=bool(commands), unknown=unknown, diff=diff)


if __name__ == "__main__":
    main()
