"""The local directory behind dscl, dseditgroup, sysadminctl, id and dscacheutil."""

from __future__ import annotations

from maclab.faults.commands import FULL_DISK_ACCESS
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.records import Record
from maclab.machine.units import fresh_uuid

#: DS errors: the exit status is |code| mod 256 (recordings/users/dscl_errors.txt).
ERRORS = {
    "eDSRecordNotFound": -14136,
    "eDSPermissionError": -14120,
    "eNotYetImplemented": -14988,
    "eDSAuthFailed": -14090,
    "eDSRecordAlreadyExists": -14135,
    "eDSUnknownNodeName": -14008,
    "eDSAttributeNotFound": -14134,
}
#: Attributes by the names that people type, and the ones that dscl stores them under.
ALIASES = {
    "uid": "UniqueID",
    "gid": "PrimaryGroupID",
    "home": "NFSHomeDirectory",
    "shell": "UserShell",
    "realname": "RealName",
    "name": "RecordName",
    "passwd": "Password",
}


def status_of(error: str) -> int:
    """Exit status of a DS error."""
    return abs(ERRORS[error]) % 256


def attribute(name: str) -> str:
    """The stored name of an attribute: without the `dsAttrTypeStandard:` prefix, aliases resolved."""
    plain = name.removeprefix("dsAttrTypeStandard:").removeprefix("dsAttrTypeNative:")
    return ALIASES.get(plain.lower(), plain)


def table(mac: Mac, path: str) -> tuple[dict[str, Record] | None, list[str]]:
    """(users or groups, rest of the path) for a path such as /Users/_ds4, /Groups or
    /Local/Default/Users/x.
    """
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["Local", "Default"]:
        parts = parts[2:]
    if not parts:
        return None, []
    return {"Users": mac.users, "Groups": mac.groups}.get(parts[0]), parts[1:]


def new_record(name: str, kind: str) -> Record:
    """An empty record as `dscl -create /Users/name` makes it."""
    attributes = {
        "RecordName": [name],
        "GeneratedUID": [fresh_uuid()],
        "RecordType": [f"dsRecTypeStandard:{kind}"],
        "AppleMetaNodeLocation": ["/Local/Default"],
    }
    return Record(attributes)


def has_full_disk_access(ctx: Context, mac: Mac) -> bool:
    """Whether this session may change and delete account records (reference 5.1)."""
    return mac.full_disk_access or FULL_DISK_ACCESS.active(ctx.faults)


def project(ctx: Context, mac: Mac) -> None:
    """Show a changed directory to getpwnam, sshd and sudo; on paper (tests) there is nothing to show it
    to.
    """
    if str(ctx.folder) == "/.lab":
        tree.project_directory(mac)


def user_by_id(mac: Mac, uid: int) -> Record | None:
    """The user with this uid."""
    return next((r for r in mac.users.values() if r.first("UniqueID") == str(uid)), None)


def groups_of(mac: Mac, user: str) -> list[str]:
    """Names of the groups that a user is in: primary first, then memberships, then Apple's computed ones."""
    record = mac.users[user]
    primary = record.first("PrimaryGroupID")
    names = [name for name, group in mac.groups.items() if group.first("PrimaryGroupID") == primary][:1]
    names += [n for n in mac.groups if user in tree.group_members(mac, n) and n not in names]
    computed = ["everyone", "localaccounts"]
    return names + [n for n in computed if n in mac.groups and n not in names]
