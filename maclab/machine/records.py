"""Records of the local directory."""

from __future__ import annotations

from dataclasses import dataclass, field

from maclab.machine.units import stable_uuid


@dataclass
class Record:
    """A record of the local directory (dscl): attribute names as Open Directory spells them, each a list
    of values.
    """

    attributes: dict[str, list[str]] = field(default_factory=dict)
    password_hash: str = "*"
    """crypt(3) hash for sshd and sudo; "*" = no password."""

    def first(self, key: str, default: str = "") -> str:
        values = self.attributes.get(key)
        return values[0] if values else default

    @property
    def name(self) -> str:
        return self.first("RecordName")


def user_record(
    name: str, uid: int, gid: int, home: str, shell: str, real_name: str, *, seed: str = ""
) -> Record:
    """A complete user record, as sysadminctl or the setup assistant would write it."""
    return Record(
        {
            "RecordName": [name],
            "UniqueID": [str(uid)],
            "PrimaryGroupID": [str(gid)],
            "NFSHomeDirectory": [home],
            "UserShell": [shell],
            "RealName": [real_name],
            "GeneratedUID": [stable_uuid(seed, "user", name)],
            "Password": ["********" if uid >= 500 else "*"],
            "RecordType": ["dsRecTypeStandard:Users"],
            "AppleMetaNodeLocation": ["/Local/Default"],
        }
    )


def group_record(
    name: str, gid: int, real_name: str, members: list[str] | None = None, *, seed: str = ""
) -> Record:
    """A complete group record; `members` are user names."""
    record = Record(
        {
            "RecordName": [name],
            "PrimaryGroupID": [str(gid)],
            "RealName": [real_name],
            "Password": ["*"],
            "GeneratedUID": [stable_uuid(seed, "group", name)],
            "RecordType": ["dsRecTypeStandard:Groups"],
            "AppleMetaNodeLocation": ["/Local/Default"],
        }
    )
    if members:
        record.attributes["GroupMembership"] = list(members)
    return record
