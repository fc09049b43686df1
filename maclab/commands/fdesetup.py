"""fdesetup: FileVault.

Source: recordings/fdesetup (texts, exit codes of the manual page). Confidence A; deferred enablement B.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="fdesetup",
    paths=("/usr/bin/fdesetup",),
    source="recordings/fdesetup, fdesetup(8)",
    confidence="A",
    does="status, isactive, supportsauthrestart, authrestart (reboots), haspersonalrecoverykey",
    lacks="enable, disable, users, recovery keys",
)


def main(ctx: Context) -> int:
    """Answer one question about FileVault."""
    verb = ctx.args[0] if ctx.args else ""
    state = ctx.peek().filevault
    if verb == "status":
        ctx.out("FileVault is On." if state in ("on", "busy") else "FileVault is Off.")
        if state == "busy":
            ctx.out("Encryption in progress: Percent completed = 42")
        if state == "deferred":
            ctx.out("Deferred enablement appears to be active for user 'admin'.")
        return 0
    if verb == "isactive":
        ctx.out("true" if state in ("on", "busy") else "false")
        return {"on": 0, "busy": 2}.get(state, 1)
    if verb in ("supportsauthrestart", "haspersonalrecoverykey"):
        ctx.out("true" if verb == "supportsauthrestart" or state == "on" else "false")
        return 0
    if verb == "authrestart":
        if state in ("off", "deferred"):
            ctx.err("FileVault is Off.")
            return 1
        if not ctx.is_root:
            ctx.err("fdesetup: authentication failed.")
            return 11
        ctx.call("shutdown", kind="reboot", unlocked=True)
        return 0
    return ctx.unsupported(verb or "(none)")
