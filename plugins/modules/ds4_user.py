#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Hidden accounts for services, made with dscl so that no Full Disk Access is needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_user
short_description: Keep hidden service accounts and their groups
description:
  - Creates records with C(dscl . -create), because C(sysadminctl) gives another id and reports success when
    the ssh session has no Full Disk Access.
  - An id that is not given is the first free one from 400 to 499.
  - A user that is there already must be one of ours, known by its full name and its place among hidden
    accounts; a group must have no other member. Otherwise nothing at all is changed, and O(state=absent)
    leaves that account alone.
  - Reads every record again after writing; what macOS refuses to change in an existing one is an error.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  groups:
    description: Groups; each needs a V(name) and may have a V(gid).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the group.
        type: str
        required: true
      gid:
        description: Its id; unset is the first that is free.
        type: int
  users:
    description: Users without a password.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      uid:
        description: Its id; unset is that of the group of the same name or the first that is free.
        type: int
      gid_name:
        description: Name of the primary group; the user's own name when unset.
        type: str
      home:
        description: Home directory; it is not created.
        type: str
        default: /var/empty
      shell:
        description: Login shell.
        type: str
        default: /usr/bin/false
      real_name:
        description: Full name. By it the account is known as ours later; each kind of account has its own.
        type: str
      hidden:
        description: Keep the user out of the login window.
        type: bool
        default: true
  ssh_users:
    description: Users who log in over ssh; they join the group that Remote Login is limited to, if it is.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) deletes users and groups. macOS may refuse that without Full Disk Access.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Keep the service account
  ds4.fleet.ds4_user:
    groups:
      - name: _ds4
    users:
      - name: _ds4
        real_name: ds4 service
"""

RETURN = r"""
users:
  description: Ids of the users by name.
  returned: success
  type: dict
  sample: {_ds4: 400}
groups:
  description: Ids of the groups by name.
  returned: success
  type: dict
  sample: {_ds4: 400}
foreign:
  description: What was to be deleted and is not ours, one sentence each. It was left alone.
  returned: success
  type: list
  elements: str
kept:
  description: Records that macOS did not let go without Full Disk Access. They have no password and no shell.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import accounts
from ..module_utils.ds4agent.mac.directory import dscl, numbers, record, strange_group, stranger
from ..module_utils.ds4agent.mac.run import RC_MISSING, locked, run

LOCK = "/var/run/ds4-user.lock"
# While this group exists only its members may log in over ssh.
SSH_GROUP = "com.apple.access_ssh"


def write(path: str, attributes: Iterable[tuple[str, str]]) -> None:
    for arguments in [()] + list(attributes):
        result = dscl("-create", path, *arguments)
        if result.rc == accounts.RC_PERMISSION and arguments:
            raise accounts.Refusal(
                "macOS does not let %s of %s be changed without Full Disk Access for remote users: delete the"
                " account on the Mac, or allow that in System Settings > Sharing > Remote Login"
                % (arguments[0], path)
            )
        if not result.ok:
            raise accounts.Refusal(result.sentence())


def keep(path: str, attributes: Collection[tuple[str, str]], check_mode: bool) -> dict[str, str] | None:
    """Bring one record to its attributes; the diff of it, or None."""
    found = record(path)
    lacking = accounts.missing(attributes, found)
    if not lacking:
        return None
    if not check_mode:
        write(path, lacking)
        still = [key for key, _value in accounts.missing(attributes, record(path))]
        if still:
            raise accounts.Refusal("%s did not take %s" % (path, ", ".join(still)))
    return {
        "before_header": path,
        "after_header": path,
        "before": "".join("%s: %s\n" % (key, found[key]) for key, _value in lacking if key in found),
        "after": "".join("%s: %s\n" % pair for pair in lacking),
    }


def admit(user: str, check_mode: bool) -> dict[str, str] | None:
    """Let a user in where Remote Login is limited to members of a group; the diff of it, or None."""
    if not record("/Groups/" + SSH_GROUP):
        return None
    member = run("dseditgroup", "-o", "checkmember", "-m", user, SSH_GROUP)
    if member.rc == RC_MISSING:
        raise accounts.Refusal(member.sentence())
    if member.out.startswith("yes "):
        return None
    if not check_mode:
        result = run("dseditgroup", "-o", "edit", "-a", user, "-t", "user", SSH_GROUP)
        if not result.ok:
            raise accounts.Refusal(result.sentence())
    return {"before": "", "after": "%s is a member of %s\n" % (user, SSH_GROUP)}


def remove(path: str, check_mode: bool) -> tuple[dict[str, str] | None, bool]:
    """Delete a record: (diff or None, was it kept)."""
    if not record(path):
        return None, False
    if not check_mode:
        result = dscl("-delete", path)
        if result.rc == accounts.RC_PERMISSION:
            return None, True
        if not result.ok:
            raise accounts.Refusal(result.sentence())
    return {"before": path + "\n", "after": ""}, False


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    group_ids, user_ids = numbers("/Groups", "PrimaryGroupID"), numbers("/Users", "UniqueID")
    found: list[dict[str, str] | None] = []
    kept: list[str] = []
    names = [user["name"] for user in params["users"]]
    if params["state"] == "absent":
        ours = accounts.REAL_NAMES.values()
        whys = {user["name"]: stranger(user, ours) for user in params["users"]}
        for group in params["groups"]:
            whys[group["name"]] = whys.get(group["name"]) or strange_group(group, names, group_ids)
        # A user who stays keeps the group, or files of the next group with that id would be theirs.
        for folder, wanted in (("/Users/", params["users"]), ("/Groups/", params["groups"])):
            stay = {path[len("/Users/") :] for path in kept} | {name for name in whys if whys[name]}
            for name in [item["name"] for item in wanted if item["name"] not in stay]:
                diff, stays = remove(folder + name, check_mode)
                found.append(diff)
                kept += [folder + name] if stays else []
        foreign = [why for why in whys.values() if why]
        diffs = [diff for diff in found if diff]
        return {
            "changed": bool(diffs),
            "diff": diffs,
            "users": {},
            "groups": {},
            "kept": kept,
            "foreign": foreign,
        }
    gids, uids = accounts.choose_ids(params["groups"], params["users"], group_ids, user_ids)
    strangers = [stranger(user, [user["real_name"] or user["name"]]) for user in params["users"]]
    strangers += [strange_group(group, names, group_ids) for group in params["groups"]]
    for why in filter(None, strangers):
        raise accounts.Refusal(why + ": choose another name, or delete it yourself")
    for group in params["groups"]:
        path = "/Groups/" + group["name"]
        found.append(keep(path, accounts.group_attributes(group, gids[group["name"]]), check_mode))
    for user in params["users"]:
        primary = user["gid_name"] or user["name"]
        gid = gids.get(primary, group_ids.get(primary))
        if gid is None:
            raise accounts.Refusal("user %s: there is no group %s" % (user["name"], primary))
        path = "/Users/" + user["name"]
        found.append(keep(path, accounts.user_attributes(user, uids[user["name"]], gid), check_mode))
    found += [admit(user, check_mode) for user in params["ssh_users"]]
    diffs = [diff for diff in found if diff]
    result = {"changed": bool(diffs), "diff": diffs, "users": uids, "groups": gids}
    return dict(result, kept=kept, foreign=[])


def main() -> None:
    text = {"type": "str"}
    group = {"name": {"type": "str", "required": True}, "gid": {"type": "int"}}
    user = {
        "name": {"type": "str", "required": True},
        "uid": {"type": "int"},
        "gid_name": text,
        "home": {"type": "str", "default": "/var/empty"},
        "shell": {"type": "str", "default": "/usr/bin/false"},
        "real_name": text,
        "hidden": {"type": "bool", "default": True},
    }
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "default": [], "options": group},
            "users": {"type": "list", "elements": "dict", "default": [], "options": user},
            "ssh_users": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        with locked(LOCK):
            result = work(module.params, module.check_mode)
    except (accounts.Refusal, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
