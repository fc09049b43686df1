"""From a rental's first login to a manageable Mac: what to ask, what to decide, and the scripts that do it.

Nothing here connects to anything. `PROBE` is a read-only shell script for a Mac without Python;
`Probe.parse` reads its answer, `decide` compares it with what is wanted and returns the steps that are
missing, each with its script. The playbook bootstrap.yml runs them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds4agent.mac import parse as mac_parse
from ds4agent.mac import updates as mac_updates
from ds4agent.mac.run import TOOLS
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory import names
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.layout import TOOLS_LOG, TOOLS_PID
from ds4fleet.remote import ssh

UPDATE_DOMAIN: str = mac_updates.UPDATE_DOMAIN
UPDATE_KEYS: tuple[str, ...] = mac_updates.UPDATE_KEYS

#: Where `softwareupdate` puts the Command Line Tools, and the Python of theirs that modules run under.
TOOLS_DIR = "/Library/Developer/CommandLineTools"
SUDOERS_FILE = "/etc/sudoers.d/ds4-fleet"
#: With this file present `softwareupdate -l` offers the Command Line Tools (Homebrew's headless way).
TRIGGER_FILE = "/tmp/.com.apple.dt.CommandLineTools.installondemand.in-progress"
#: The oldest Python that the modules are written for (the tools of Xcode 13 to 16 bring 3.9.6).
OLDEST_PYTHON = (3, 9)

#: Neither the login shell's nor sudo's idea of PATH is ours to rely on.
_PATH = "PATH=/usr/bin:/bin:/usr/sbin:/sbin; export PATH"

#: One shell script, no privilege, nothing changed. Python and git are looked at only where the tools put
#: them: the ones in /usr/bin are stubs on a bare Mac, and running one opens a dialogue there.
PROBE = f"""\
{_PATH}
section() {{ printf '\\n==> %s\\n' "$1"; }}
section user; id -un
section system; uname -s; sw_vers -productVersion
section home; ls -ld ~ | cut -c1-10
section keys; cat ~/.ssh/authorized_keys 2>/dev/null
section sudo; sudo -n true 2>/dev/null && echo yes
section sudoers; sudo -n cat {SUDOERS_FILE} 2>/dev/null
section tools; xcode-select -p 2>/dev/null
section python; [ -x {TOOLS_DIR}/usr/bin/git ] && {TOOLS_DIR}/usr/bin/python3 -V 2>&1
section installing; [ -r {TOOLS_PID} ] && sudo -n kill -0 "$(cat {TOOLS_PID})" 2>/dev/null && echo yes
section power; pmset -g
section powerkeys; pmset -g cap
section updates; for key in {" ".join(UPDATE_KEYS)}; do
  echo "$key $(defaults read {UPDATE_DOMAIN} $key 2>/dev/null)"; done
section timezone; readlink /etc/localtime
section filevault; fdesetup status
section end
"""


@dataclass(frozen=True)
class Wanted:
    """What the inventory asks of a bootstrapped Mac."""

    user: str
    keys: Sequence[str]
    power: Mapping[str, int] = field(default_factory=dict)
    timezone: str = ""
    updates: str = "hold"


@dataclass(frozen=True)
class Probe:
    """The Mac's answer to PROBE."""

    user: str
    macos: str
    home_mode: str
    keys: frozenset[str]
    sudo: bool
    sudoers: str
    tools: bool
    selected: str
    installing: bool
    python: tuple[int, ...]
    power: Mapping[str, Any]
    power_keys: frozenset[str]
    updates: Mapping[str, bool]
    timezone: str | None
    filevault: str

    @classmethod
    def parse(cls, host: str, text: str) -> Probe:
        """Read PROBE's output; raises OperatorError when the host is no Mac or the answer is cut off."""
        sections = dict(
            re.findall(r"^==> (\w+)[ \t\r]*\n(.*?)(?=^==> |\Z)", text.replace("\r", ""), re.M | re.S)
        )
        if "end" not in sections:
            raise OperatorError(f"{host}: the answer to the first look was cut off; run the command again")
        system = sections["system"].split()
        if not system or system[0] != "Darwin":
            raise OperatorError(
                f"{host} is no Mac: it runs {system[0] if system else 'something unknown'};"
                " check ansible_host in the inventory",
                exit_code=EXIT_USAGE,
            )
        python = re.search(r"Python (\d+)\.(\d+)", sections["python"])
        return cls(
            user=sections["user"].strip(),
            macos=system[1] if len(system) > 1 else "",
            home_mode=sections["home"].strip(),
            keys=frozenset(filter(None, map(_key_body, sections["keys"].splitlines()))),
            sudo=sections["sudo"].strip() == "yes",
            sudoers=sections["sudoers"].strip(),
            tools=bool(sections["tools"].strip()) and bool(python),
            selected=sections["tools"].strip(),
            installing=sections["installing"].strip() == "yes",
            python=tuple(int(part) for part in python.groups()) if python else (),
            power=mac_parse.pmset(sections["power"]),
            power_keys=frozenset(mac_parse.pmset_capabilities(sections["powerkeys"])),
            updates={
                key: value == "1"
                for key, value in re.findall(r"^(\w+) ([01])\s*$", sections["updates"], re.M)
            },
            timezone=mac_parse.timezone(sections["timezone"].strip()),
            filevault=mac_parse.filevault(sections["filevault"]),
        )


@dataclass(frozen=True)
class Step:
    """One thing that the Mac lacks: its name, what will be done (a sentence), and the script that does it."""

    name: str
    what: str
    script: str
    as_root: bool


def decide(host: str, probe: Probe, wanted: Wanted) -> list[Step]:
    """The steps that are missing, in order; [] on a Mac that is ready. Raises OperatorError for bad input."""
    named = {
        "ds4_bootstrap_user": wanted.user,
        "ds4_admin_keys": list(wanted.keys),
        "ds4_power": wanted.power,
        "ds4_timezone": wanted.timezone,
    }
    for sentence in names.mistakes(named):
        raise OperatorError(f"{host}: {sentence}", exit_code=EXIT_USAGE)
    if not wanted.keys:
        raise OperatorError(
            f"{host}: no key to let in is given: set ds4_admin_keys, or ansible_ssh_private_key_file with"
            " its .pub beside it",
            exit_code=EXIT_USAGE,
        )
    if probe.python and probe.python < OLDEST_PYTHON:
        raise OperatorError(
            f"{host}: the Command Line Tools bring Python {'.'.join(map(str, probe.python))}, but modules"
            f" need {'.'.join(map(str, OLDEST_PYTHON))}; update the tools with softwareupdate"
        )
    found = [
        _key_step(probe, wanted),
        _sudo_step(probe, wanted),
        _tools_step(probe),
        _settings_step(probe, wanted),
    ]
    return [step for step in found if step is not None]


def warnings(host: str, probe: Probe, wanted: Wanted) -> list[str]:
    """What the operator should know although nothing is wrong, one sentence each."""
    said = []
    if probe.filevault == "deferred":
        said.append(
            f"{host}: FileVault turns on at the next login of a person (deferred enablement). From then on"
            " every reboot stops before daemons and key logins work. Take it back with `fdesetup disable` on"
            " a server that must come back by itself"
        )
    if probe.filevault in ("on", "busy"):
        said.append(
            f"{host}: FileVault is on, so every reboot stops before daemons and key logins work, until"
            " somebody unlocks the disk with a password (on macOS 26 by a password login over ssh); a server"
            " that must come back by itself wants FileVault off, or `fdesetup authrestart` for each reboot"
        )
    if probe.selected not in ("", TOOLS_DIR):
        said.append(
            f"{host}: {probe.selected} is selected as developer directory and stays selected; the engine is"
            " built with its tools"
        )
    _power, missing = mac_updates.power(wanted.power, probe.power, probe.power_keys)
    if missing:
        said.append(f"{host}: this Mac has no power setting named {', '.join(missing)}; left alone")
    if re.match(r"d....w|d.......w", probe.home_mode):
        said.append(f"{host}: the home of {probe.user} is writable for others, so sshd may refuse its keys")
    return said


def _key_step(probe: Probe, wanted: Wanted) -> Step | None:
    lines: dict[str, str] = {}
    for key in wanted.keys:
        parsed = parse_key(key)
        if parsed.line not in probe.keys:
            lines.setdefault(parsed.line, parsed.commented)
    if not lines:
        return None
    text = shlex.quote("".join(line + "\n" for line in lines.values()))
    script = f"""\
{_PATH}
set -eu
umask 077
mkdir -p ~/.ssh
chmod 700 ~/.ssh
file=~/.ssh/authorized_keys
new=$file.ds4-new
if [ -s "$file" ]; then awk 1 "$file" >"$new"; else : >"$new"; fi
printf %s {text} >>"$new"
chmod 600 "$new"
mv "$new" "$file"
"""
    return Step("key", f"let {len(lines)} public key(s) log in as {probe.user}", script, as_root=False)


def sudoers_text(user: str) -> str:
    """Content of the drop-in that lets the administrator become root without a password."""
    return (
        f"# Managed by ds4-fleet: playbooks become root without a password.\n{user} ALL=(ALL) NOPASSWD: ALL\n"
    )


def _sudo_step(probe: Probe, wanted: Wanted) -> Step | None:
    text = sudoers_text(wanted.user)
    if probe.sudo and probe.sudoers == text.strip():
        return None
    # sudo leaves out names with a dot or a trailing ~, so that the file counts only after the check.
    script = f"""\
{_PATH}
set -eu
umask 077
mkdir -p -m 0755 /etc/sudoers.d
new=/etc/sudoers.d/.ds4-fleet.new~
trap 'rm -f "$new"' EXIT
printf %s {shlex.quote(text)} >"$new"
chown root:wheel "$new"
chmod 0440 "$new"
/usr/sbin/visudo -cf "$new" >/dev/null
mv "$new" {SUDOERS_FILE}
"""
    return Step(
        "sudo", f"install {SUDOERS_FILE}, so that {wanted.user} needs no password for sudo", script, True
    )


def _tools_step(probe: Probe) -> Step | None:
    if probe.tools:
        return None
    what = "install the Command Line Tools with softwareupdate (5 to 20 minutes on most lines)"
    if probe.installing:
        return Step(
            "tools", "wait for the Command Line Tools that are being installed", "true\n", as_root=True
        )
    # The installer outlives this connection; whoever comes next finds its pid and waits for it.
    script = f"""\
{_PATH}
set -eu
# Everybody may write there: a file of an unforeseeable name gets this one, unless something has it.
rm -rf {TRIGGER_FILE}
new=$(/usr/bin/mktemp /tmp/ds4-XXXXXXXX)
ln -n "$new" {TRIGGER_FILE}
rm -f "$new"
label=$(/usr/sbin/softwareupdate -l 2>/dev/null | {NEWEST_TOOLS})
if [ -z "$label" ]; then
  rm -f {TRIGGER_FILE}
  echo "softwareupdate offers no Command Line Tools" >&2
  exit 69
fi
# Before the fork: the terminal may hang up before the child has had its first turn.
trap '' HUP
(
  status=0
  /usr/sbin/softwareupdate -i "$label" || status=$?
  selected=$(/usr/bin/xcode-select -p 2>/dev/null) || selected=
  if [ "$status" -eq 0 ] && [ ! -d "$selected" ]; then
    /usr/bin/xcode-select --switch {TOOLS_DIR} || status=$?
  fi
  rm -f {TRIGGER_FILE}
  echo "ds4-fleet: finished with status $status"
) </dev/null >{TOOLS_LOG} 2>&1 &
echo $! >{TOOLS_PID}
echo "$label"
"""
    return Step("tools", what, script, as_root=True)


#: Shell: from the list of `softwareupdate -l`, the label of the newest tools; a beta only when there is
#: nothing else.
NEWEST_TOOLS = r"""
  sed -n 's/^[[:space:]]*\*[[:space:]]*Label:[[:space:]]*\(Command Line Tools.*\)$/\1/p' \
  | sed 's/[[:space:]]*$//' | awk '{ v = $0; released = 1 - sub(/ beta *[0-9]*/, "", v);
      gsub(/[^0-9]+/, " ", v); split(v, n, " ");
      printf "%d %05d %05d %05d %s\n", released, n[1], n[2], n[3], $0 }' | sort | tail -n 1 | cut -c21-
""".strip()

#: Answers `running LINE`, `done` or `failed LINE`, LINE being the last thing that the installer said.
TOOLS_STATE = f"""\
{_PATH}
line=$(tr '\\r' '\\n' <{TOOLS_LOG} 2>/dev/null | grep -v '^[[:space:]]*$' | tail -n 1)
tools={TOOLS_DIR}/usr/bin
if [ -r {TOOLS_PID} ] && kill -0 "$(cat {TOOLS_PID})" 2>/dev/null; then
  echo "running $line"
elif xcode-select -p >/dev/null 2>&1 && [ -x $tools/git ] && [ -x $tools/python3 ]; then
  echo done
else
  echo "failed $line"
fi
"""


def _settings_step(probe: Probe, wanted: Wanted) -> Step | None:
    commands, parts = [], []
    power, _unknown = mac_updates.power(wanted.power, probe.power, probe.power_keys)
    if power:
        words = [word for key, value in power.items() for word in (key, str(value))]
        commands.append(shlex.join(["/usr/bin/pmset", "-a", *words]))
        parts.append(
            "power " + ", ".join(f"{key} {probe.power.get(key)} -> {value}" for key, value in power.items())
        )
    updates = mac_updates.updates(probe.updates, wanted.updates)
    for program, *words in mac_updates.update_commands(updates):
        commands.append(shlex.join([TOOLS[program], *words]) + " >/dev/null")
    if updates:
        parts.append(mac_updates.updates_sentence(updates))
    if wanted.timezone and wanted.timezone != probe.timezone:
        # It prints a harmless `### Error:-99` line on stderr.
        commands.append(
            shlex.join(["/usr/sbin/systemsetup", "-settimezone", wanted.timezone]) + " >/dev/null"
        )
        parts.append(f"time zone {probe.timezone} -> {wanted.timezone}")
    if not commands:
        return None
    script = "\n".join([_PATH, "set -eu", *commands]) + "\n"
    return Step("settings", "set " + "; ".join(parts), script, as_root=True)


def _key_body(line: str) -> str | None:
    """`ssh-ed25519 AAAA` of a line of authorized_keys or a .pub file; None for anything else."""
    found = re.search(r"(?:^|\s)((?:ssh|ecdsa|sk)-[\w@.-]+)\s+(AAAA[\w+/=]+)(?:\s|$)", line.strip())
    return None if found is None or "\n" in line.strip() else f"{found.group(1)} {found.group(2)}"


# What a failed first contact means, in one sentence each. The patterns are texts of OpenSSH, sudo and macOS.


def unreachable(host: str, said: str, tried: str = "") -> str:
    """Why a host could not be reached, from what ssh printed; tried: how, for a refused login."""
    kind = ssh.refusal(said)
    if kind is ssh.Kind.HOST_KEY:
        return (
            f"{host}: "
            + ("no host key is recorded" if ssh.unknown_key(said) else "its host key has changed")
            + f"; run `ansible-playbook playbooks/bootstrap.yml -l {host}`, which shows what it is"
        )
    if kind is ssh.Kind.LOGIN:
        return (
            f"{host} refuses {tried or 'this login'}: neither the key nor the first password is accepted; run"
            f" `ansible-playbook playbooks/bootstrap.yml -l {host}` with the account of its first login in"
            " ansible_user and its password in ansible_password (vaulted) or ds4_bootstrap_password_file"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # Ansible puts its own advice before what ssh said, in the same line.
    reason = lines[-1].rsplit("over ssh: ", 1)[-1].removeprefix("ssh: ") if lines else "no reason given"
    return f"{host} does not answer: {reason}"


def sudo_refused(host: str) -> str:
    """The sentence for a login user without any right by sudo."""
    return (
        f"{host}: sudo wants a password and took none that was given; name a file that holds it in"
        " ds4_bootstrap_password_file (mode 0600)"
    )


def step_failed(host: str, what: str, said: str) -> str:
    """The sentence for a step that failed; said: what the script printed."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "Shared connection" not in line]
    return f"{host}: could not {what}: {lines[-1] if lines else 'no reason given'}"


def check_password_file(host: str, name: str) -> None:
    """Raise OperatorError when the file with the first password is missing or others may read it."""
    path = Path(name).expanduser()
    if name and not path.is_file():
        raise OperatorError(
            f"{host}: ds4_bootstrap_password_file names {path}, which is not there", exit_code=EXIT_USAGE
        )
    if name and path.stat().st_mode & 0o077:
        raise OperatorError(
            f"{host}: others may read {path}, which holds a password: chmod 600 {path}", exit_code=EXIT_USAGE
        )


def public_half(key_file: str) -> list[str]:
    """The public key beside a private key file as a list of one line; [] when there is none."""
    path = Path(key_file + ".pub").expanduser()
    return [path.read_text().strip()] if key_file and path.is_file() else []


def never_met(said: str) -> bool:
    """Whether ssh failed as it does on a Mac that bootstrap has not seen: no key recorded, or none let in."""
    return ssh.unknown_key(said) or "Permission denied" in said


def lacks_python(streams: str) -> bool:
    """Whether a module's output says that its interpreter is missing or is the stub."""
    return bool(re.search(r"python3[^\n]*(No such file|not found)|No developer tools were found", streams))


def lacks_sudo(streams: str) -> bool:
    """Whether a command's output says that sudo wants a password or refuses the user."""
    return bool(
        re.search(
            r"sudo: a (terminal|password) is required|is not in the sudoers file|sorry, try again",
            streams,
            re.I,
        )
    )


def no_tools(host: str) -> str:
    """The sentence for a Mac without Python."""
    return (
        f"{host} has no Command Line Tools yet, so no module can run there;"
        f" run `ansible-playbook playbooks/bootstrap.yml -l {host}` first"
    )


def no_sudo(host: str) -> str:
    """The sentence for a Mac on which we are not root."""
    return (
        f"{host}: the login user cannot use sudo without a password;"
        f" run `ansible-playbook playbooks/bootstrap.yml -l {host}` first"
    )
