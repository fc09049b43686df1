# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Write probes, which change the Mac and put it back: one small volume, one throw-away daemon, one user.

Each write probe refuses to begin when something of its name is there already. It undoes what it did, however
it ends, and says what it could not undo.
"""

from __future__ import annotations

import errno
import os
import plistlib
import sys
from typing import TYPE_CHECKING, Any

from ..mac import parse
from ..mac.run import argv, poll, run, run_all
from . import read_probes

if TYPE_CHECKING:
    from ..mac.run import Result

VOLUME = "ds4-probe"
RENAMED = "ds4-probe-2"
LABEL = "com.ds4fleet.probe"
USER = "_ds4probe"
#: In 400-499, where the role's own accounts live; far from where it starts to look.
USER_ID = 498
PLIST = "/Library/LaunchDaemons/%s.plist" % LABEL
DAEMON_WAIT_S = 20
LAST_EXIT_WAIT_S = 5
DELETE_WAIT_S = 10
#: Asks Metal for its device without any package; prints one JSON object. MTLCreateSystemDefaultDevice needs
#: CoreGraphics in the process (Apple's documentation of the function).
METAL_SCRIPT = """
import ctypes, json
frameworks = "/System/Library/Frameworks/%s.framework/%s"
try:
    ctypes.CDLL(frameworks % ("CoreGraphics", "CoreGraphics"))
    metal = ctypes.CDLL(frameworks % ("Metal", "Metal"))
    objc = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
    metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = [ctypes.c_char_p]
    device = metal.MTLCreateSystemDefaultDevice()
    send = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(("objc_msgSend", objc))
    size = send(device, objc.sel_registerName(b"recommendedMaxWorkingSetSize")) if device else 0
    print(json.dumps({"device": bool(device), "bytes": size}), flush=True)
except (OSError, AttributeError) as error:
    print(json.dumps({"error": str(error)}), flush=True)
"""


class Found:
    """What the probes found: answers, findings, results for the parsers' checks, and what is left behind."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.findings: dict[str, Any] = {}
        self.unanswered: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.left: list[str] = []


def has_full_disk_access() -> bool:
    """Whether this session has it: a change of the home of `nobody` to what it is already (nix-darwin's
    probe)."""
    record = parse.dscl_read(run("dscl", ".", "-read", "/Users/nobody", "NFSHomeDirectory").out)
    home = record.get("NFSHomeDirectory", "/var/empty")
    return run("dscl", ".", "-change", "/Users/nobody", "NFSHomeDirectory", home, home).ok


# ------------------------------------------------------------------------------------------------- a volume


def _volumes() -> dict[str, str]:
    containers = parse.apfs_containers(run("diskutil", "apfs", "list", "-plist").out)
    return {volume["name"]: volume["device"] for c in containers for volume in c["volumes"]}


def volume(found: Found, container: str, operator: str, folder: str) -> None:
    """One volume of 64 MB below `folder`, filled, renamed, mounted and deleted."""
    taken = {VOLUME, RENAMED} & set(_volumes())
    if taken:
        found.unanswered["volume"] = "a volume %s is there already: delete it first" % taken.pop()
        return
    try:
        _volume(found, container, folder)
        _as_operator(found, container, operator)
    finally:
        for name in (VOLUME, RENAMED):
            _delete(found, name)


def _delete(found: Found, name: str) -> None:
    device = _volumes().get(name)
    if device is None:
        return
    run("diskutil", "unmount", "force", device)
    # mds, fseventsd and shells let go within seconds (nix-installer).
    if not poll(lambda: run("diskutil", "apfs", "deleteVolume", device).ok, DELETE_WAIT_S, 0.5):
        found.left.append("the volume %s (%s)" % (name, device))


def _volume(found: Found, container: str, folder: str) -> None:
    quota = "%dB" % read_probes.QUOTA_BYTES
    made = run("diskutil", "apfs", "addVolume", container, "APFS", VOLUME, "-quota", quota, "-nomount")
    found.results["add volume"] = made
    found.findings["nomount_lines"] = read_probes.lines_without_numbers(made.out)
    device = parse.added_device(made.out) or _volumes().get(VOLUME)
    if device is None:
        found.unanswered["volume"] = made.sentence()
        return
    first, second = os.path.join(folder, "1"), os.path.join(folder, "2")
    for path in (first, second):
        os.mkdir(path)
    mounted = run("diskutil", "mount", "-mountPoint", first, device)
    if not os.path.ismount(first):
        found.unanswered["volume"] = mounted.sentence()
        return
    again = run("diskutil", "mount", "-mountPoint", second, device)
    found.answers["mount_elsewhere_rc"] = again.rc
    found.findings["mount_elsewhere_moves"] = os.path.ismount(second)
    point = second if os.path.ismount(second) else first
    found.answers["enable_ownership_rc"] = run("diskutil", "enableOwnership", device).rc
    _fill(found, point)
    with open(os.path.join(point, "held"), "wb"):
        found.results["busy"] = run("diskutil", "unmount", device)
    renamed = run("diskutil", "rename", device, RENAMED)
    text = read_probes.rename_text(renamed.out, device, RENAMED)
    if renamed.ok and text:
        found.answers["rename_text"] = text


def _fill(found: Found, point: str) -> None:
    df = read_probes.df_size(run("df", "-k", point).out, read_probes.QUOTA_BYTES)
    if df:
        found.answers["df_quota_size"] = df
    stat = os.statvfs(point)
    found.findings["statvfs_quota_volume_bytes"] = stat.f_frsize * stat.f_blocks
    path, block, written = os.path.join(point, "fill"), b"\xa5" * (1 << 20), 0
    found.findings["quota_errno"] = None
    try:
        with open(path, "wb", buffering=0) as stream:
            while written < 2 * read_probes.QUOTA_BYTES:
                written += stream.write(block)
            os.fsync(stream.fileno())
    except OSError as error:
        found.findings["quota_errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
    found.findings["quota_written_bytes"] = written
    if os.path.exists(path):
        os.unlink(path)


def _as_operator(found: Found, container: str, operator: str) -> None:
    """An administrator without sudo: whether that may add a volume, and which account owns its root."""
    _delete(found, RENAMED)
    command = argv("diskutil", "apfs", "addVolume", container, "APFS", VOLUME)
    made = run_all({"it": argv("sudo", "-n", "-u", operator) + command})["it"]
    found.findings["operator_adds_volume_rc"] = made.rc
    device = parse.added_device(made.out)
    point = parse.volume_info(run("diskutil", "info", "-plist", device).out)["mount_point"] if device else ""
    if point:
        root = os.stat(point)
        found.findings["operator_owns_new_root"] = root.st_uid != 0
        found.answers["new_root_mode"] = "%04o" % (root.st_mode & 0o7777)


# ------------------------------------------------------------------------------------------------ a daemon


def daemon(found: Found, folder: str, wired_limit_mib: int) -> None:
    """A job that asks Metal as a daemon does; then the same with a UserName that does not exist."""
    if os.path.exists(PLIST):
        found.unanswered["daemon"] = "%s is there already: remove it first" % PLIST
        return
    output = os.path.join(folder, "metal.json")
    try:
        found.findings["bootstrap_rc"] = _bootstrap("nobody", output).rc
        poll(lambda: os.path.exists(output) and os.path.getsize(output) > 0, DAEMON_WAIT_S)
        said = _read(output)
        _answers, findings, why = read_probes.metal(said, wired_limit_mib)
        found.findings.update({"daemon_" + name: value for name, value in findings.items()})
        if why:
            found.unanswered["daemon_metal_device"] = why
        found.answers["bootout_wait_rc"] = run("launchctl", "bootout", "--wait", "system/" + LABEL).rc
        _gone()
        bad = _bootstrap("_ds4nobody", output)
        found.answers["bad_username_bootstrap_rc"] = bad.rc
        poll(lambda: _last_exit() is not None, LAST_EXIT_WAIT_S)
        found.findings["bad_username_last_exit"] = _last_exit()
    finally:
        run("launchctl", "bootout", "system/" + LABEL)
        if not _gone():
            found.left.append("the job " + LABEL)
        if os.path.exists(PLIST):
            os.unlink(PLIST)


def _last_exit() -> int | None:
    return parse.launchctl_print(run("launchctl", "print", "system/" + LABEL).out)["last_exit_code"]


def _bootstrap(user: str, output: str) -> Result:
    plist = {
        "Label": LABEL,
        "ProgramArguments": [os.path.realpath(sys.executable), "-c", METAL_SCRIPT],
        "UserName": user,
        "RunAtLoad": True,
        "StandardOutPath": output,
    }
    handle = os.open(PLIST, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(handle, "wb") as stream:
        plistlib.dump(plist, stream)
    return run("launchctl", "bootstrap", "system", PLIST)


def _gone() -> bool:
    return poll(lambda: run("launchctl", "print", "system/" + LABEL).rc != 0, DAEMON_WAIT_S)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


# -------------------------------------------------------------------------------------------------- a user


def user(found: Found, allowed: bool) -> None:
    """Directory questions. allowed: whether this session has Full Disk Access.

    A user is only made when it can be deleted again; without the access macOS refuses that even to root.
    """
    found.findings["full_disk_access"] = allowed
    if allowed:
        found.unanswered["home_guarded"] = "this session has Full Disk Access, which nothing is refused to"
        found.unanswered["remote_login_refusal_rc"] = found.unanswered["home_guarded"]
        _user(found)
        return
    home = parse.dscl_read(run("dscl", ".", "-read", "/Users/nobody", "NFSHomeDirectory").out)
    again = run(
        "dscl",
        ".",
        "-create",
        "/Users/nobody",
        "NFSHomeDirectory",
        home.get("NFSHomeDirectory", "/var/empty"),
    )
    found.answers["home_guarded"] = not again.ok
    # It is on, or this session would not be: the worst case leaves it on.
    refused = run("systemsetup", "-setremotelogin", "on")
    if "Full Disk Access" in refused.out + refused.err:
        found.answers["remote_login_refusal_rc"] = refused.rc
    found.unanswered["user_creation_rc"] = (
        "without Full Disk Access macOS would not let the temporary user be deleted again"
    )


def _user(found: Found) -> None:
    path = "/Users/" + USER
    if "UniqueID" in parse.dscl_read(run("dscl", ".", "-read", path, "UniqueID").out):
        found.unanswered["user_creation_rc"] = "the user %s is there already: delete it first" % USER
        return
    if USER_ID in parse.dscl_list(run("dscl", ".", "-list", "/Users", "UniqueID").out).values():
        found.unanswered["user_creation_rc"] = "the user id %d is taken" % USER_ID
        return
    statuses = [run("dscl", ".", "-create", path).rc]
    try:
        for key, value in (
            ("UniqueID", USER_ID),
            ("PrimaryGroupID", 20),
            ("NFSHomeDirectory", "/var/empty"),
            ("UserShell", "/usr/bin/false"),
            ("IsHidden", 1),
        ):
            statuses.append(run("dscl", ".", "-create", path, key, value).rc)
        found.findings["user_creation_rc"] = max(statuses)
    finally:
        if not poll(lambda: run("dscl", ".", "-delete", path).ok, DELETE_WAIT_S, 1):
            found.left.append("the user " + USER)
