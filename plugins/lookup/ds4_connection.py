# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What our plays add to the ssh connection of a Mac, whatever the inventory sets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ds4_connection
author: ds4-fleet contributors (@ds4-fleet)
short_description: What the role adds to the ssh connection of a Mac
description:
  - With C(args) the arguments of ssh. The options that say which Mac this is come first, so that no argument
    of the inventory replaces them; then those of C(ansible_ssh_args), or of Ansible's configuration.
  - With C(control_path) the path of the connection that is kept, one for each Mac. Ansible's own path is the
    same for two Macs that have the same address behind two bastions.
options:
  _terms:
    description: C(args) or C(control_path).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show how ssh is called for this Mac
  ansible.builtin.debug:
    msg: "{{ lookup('ds4.fleet.ds4_connection', 'args') }}"
"""

RETURN = r"""
_raw:
  description: The value for C(ansible_ssh_args) or C(ansible_control_path).
  type: list
  elements: str
"""

import hashlib
import json
import shlex
from typing import Any

from ansible.plugins.lookup import LookupBase

from ds4fleet.inventory.connection import identity_options
from ds4fleet.inventory.resolve import connection_of


class LookupModule(LookupBase):
    def run(self, terms: Any, variables: Any = None, **kwargs: Any) -> list[str]:
        name = str(variables["inventory_hostname"])
        # Without the variables of plays and roles, of which this is one.
        way = connection_of(name, variables["hostvars"][name])
        if terms[0] == "args":
            key = way.identity()
            only = key[:2] if "IdentitiesOnly=yes" in key else []
            return [shlex.join([*identity_options(name, way.known_hosts), *only, *way.ssh_args])]
        facts = json.dumps([name, way.to_dict()], sort_keys=True)
        return [f"%(directory)s/ds4-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"]
