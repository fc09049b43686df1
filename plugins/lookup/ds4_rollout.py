# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The Macs of a rollout, for a play's hosts; holds the rollout for the playbook that asks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ds4_rollout
author: ds4-fleet contributors (@ds4-fleet)
short_description: The Macs of a planned rollout, which this playbook then holds
description:
  - Returns the Macs of the plan in the order of their switches, nothing where no plan was given.
  - Takes the controller's lock while this ansible-playbook runs, so that neither a second one with
    the same plan nor C(fab) works beside it. For one that C(fab) started C(fab) has the lock, and this one
    holds it on when C(fab) is killed.
  - Ansible asks in its main process, which lives as long as the playbook; tasks run in others.
options:
  _terms:
    description: The rollout as C(fab upgrade) wrote it into C(run.json); empty without a plan.
    type: dict
    required: true
"""

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ds4agent.model import ModelError
from ds4fleet.upgrade import codes, controller_lock
from ds4fleet.upgrade.order import RolloutOrder


class LookupModule(LookupBase):
    def run(self, terms: Any, variables: Any = None, **kwargs: Any) -> list[str]:
        (planned,) = terms
        try:
            controller_lock.join()
            if not planned:
                return []
            order = RolloutOrder.from_json(planned)
            if order.folder and os.environ.get(controller_lock.RUN_VARIABLE) != order.run_id:
                controller_lock.hold_until_exit(Path(order.folder).parent, order.run_id, order.owner)
        except ModelError as error:
            raise AnsibleError(str(error)) from None
        except codes.RolloutError as error:
            raise AnsibleError(error.sentence) from None
        return list(order.hosts)
