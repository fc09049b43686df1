"""The root folder of a simulated Mac: what macOS has where, and the few seams to the Linux host below it.

`build` assembles the folder; the boot code adds mounts: the host's /usr at /.lab/host/usr, the Python of
the Command Line Tools at /.lab/clt-python, the simulation's own code at /.lab/py. Real binaries need the
host's libraries, so /usr/lib, /lib and /lib64 lead to the host's: the one place where the tree is visibly
not a Mac.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from maclab.machine import etc
from maclab.machine.model import Mac
from maclab.machine.records import Record

SIM = "/.lab/bin/sim"
HOST = "/.lab/host"
CLT = "/Library/Developer/CommandLineTools"
CLT_PYTHON = "/.lab/clt-python"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Real tools of the host, where their behaviour agrees for what a role uses. What differs is in
# maclab/commands/bsd.
# Folder on the Mac -> names; the host's binary is found on its usual path.
_HOST_TOOLS: dict[str, str] = {
    "/bin": "bash cat dd echo ed expr kill link ln ls mkdir mv pwd realpath rm rmdir sleep stty sync test "
    "unlink",
    "/usr/bin": "[ awk basename bc bunzip2 bzip2 cal cksum clear cmp col colrm column comm csplit curl "
    "cut diff dirname egrep env expand false fgrep file find fold getconf grep groups gunzip "
    "gzip head hexdump install join less locale logname look man mkfifo more nice nl nohup od "
    "openssl paste patch pathchk perl pgrep printenv printf renice rev scp seq sftp "
    "sort split ssh ssh-add ssh-agent ssh-copy-id ssh-keygen ssh-keyscan sudo sum tail tar "
    "tee time touch tr true truncate tsort tty unexpand uniq unzip users vi vim w which who "
    "whoami yes zcat zip rsync nc dig",
    "/usr/sbin": "chown chroot sshd visudo",
}
_ALIASES = {"/bin/sh": "bash", "/bin/zsh": "zsh", "/usr/bin/chgrp": "chgrp", "/usr/bin/tput": "tput"}
#: What the host's PAM runs by its full path to compare a password: Linux-PAM 1.6 and newer do so for root too
#: (before, only for others). Where it stands was decided when PAM was compiled.
_PAM_HELPERS = ("/usr/sbin/unix_chkpwd", "/sbin/unix_chkpwd")
_HOST_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin")

#: Tools that are stubs of xcode-select in /usr/bin until the Command Line Tools are there.
CLT_TOOLS = _words(
    "ar as c++ c99 cc clang clang++ cpp g++ gcc git gnumake ld lipo make nm otool pip3 python3 ranlib "
    "size strings strip xcodebuild"
)
_CLT_HOST = {
    "cc": "gcc",
    "clang": "gcc",
    "gcc": "gcc",
    "c99": "gcc",
    "c++": "g++",
    "clang++": "g++",
    "g++": "g++",
    "gnumake": "make",
}
#: Host tools that the wrappers in maclab/commands/bsd run.
BSD_TOOLS = _words(
    "base64 btrfs chmod cp date df du find grep head install ln md5sum mktemp mount mv ps readlink "
    "realpath sed sha1sum sha256sum "
    "sha512sum stat tac tail umount wc xargs sudo bash"
)
# A blank in a name is written ~.
_FOLDERS = _words(
    "Applications/Utilities Library/LaunchDaemons Library/LaunchAgents Library/Developer "
    "Library/Preferences/SystemConfiguration Library/Logs Library/Caches "
    "Library/Application~Support/com.apple.TCC Library/Keychains System/Applications "
    "System/Library/LaunchDaemons System/Library/LaunchAgents System/Library/CoreServices "
    "System/Library/Frameworks/Metal.framework System/Volumes/Data System/Volumes/Preboot "
    "System/Volumes/Update System/Volumes/VM System/Volumes/xarts System/Volumes/iSCPreboot "
    "System/Volumes/Hardware Users/Shared Volumes bin sbin cores dev proc opt "
    "private/etc/ssh/sshd_config.d private/etc/newsyslog.d private/etc/sudoers.d private/etc/pam.d "
    "private/etc/ssl/certs private/etc/paths.d private/var/db/com.apple.xpc.launchd "
    "private/var/db/timezone private/var/empty private/var/log private/var/root private/var/run/sshd "
    "private/var/run/sudo private/var/select private/var/folders private/var/spool private/var/vm "
    "private/var/at private/var/db/dslocal private/var/networkd private/var/lib/sudo usr/bin usr/sbin "
    "usr/libexec/ApplicationFirewall usr/local/bin usr/share lib .lab/bin .lab/host/usr .lab/py "
    ".lab/run/sysctl .lab/run/wired .lab/clt-python .lab/storage"
)


def build(root: Path, mac: Mac, host_python: Path, simulated: Iterable[str]) -> None:
    """Assemble the root folder of `mac` at `root` (made if missing; what is there already is kept).

    `host_python`: the interpreter of the host that plays the Command Line Tools' Python; its installation
    prefix is to be mounted at /.lab/clt-python (see `python_prefix`). `simulated`: where macOS has the
    commands that are simulated. Needs root, for owners and modes.
    """
    for path in _FOLDERS:
        folder = root / path.replace("~", " ")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    (root / ".lab").chmod(0o711)
    for name in ("etc", "tmp", "var"):
        _link(root / name, f"private/{name}")
    for path in ("private/tmp", "private/var/tmp"):
        (root / path).mkdir(exist_ok=True)
        (root / path).chmod(0o1777)
    (root / "Users/Shared").chmod(0o1777)
    (root / "private/var/root").chmod(0o750)
    (root / "Library/Application Support/com.apple.TCC").chmod(0o700)
    _link(root / "Volumes/Macintosh HD", "/")
    _link(root / "home", "/System/Volumes/Data/home")
    _link(root / "run", "private/var/run")
    _seams(root, host_python)
    _commands(root, simulated)
    _record_tools(root, host_python)
    etc.write(root, mac)
    project_directory(mac, root)
    _homes(root, mac)
    set_timezone(mac, root)
    toolchain(mac, root)


def python_prefix(host_python: Path) -> Path:
    """The installation prefix of the interpreter that plays the Command Line Tools' Python."""
    return host_python.resolve().parent.parent


def _seams(root: Path, host_python: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path(f"/{name}").exists():
            _link(root / ".lab/host" / name, f"usr/{name}")
    _link(root / "usr/lib", f"{HOST}/usr/lib")
    _link(root / "lib64", f"{HOST}/usr/lib64")
    for entry in Path("/usr/lib").glob("*-linux-gnu*"):
        _link(root / "lib" / entry.name, f"{HOST}/usr/lib/{entry.name}")
    prefix = python_prefix(host_python)
    if prefix != Path("/usr"):
        # The dynamic loader looks in /lib last, so a Python with a shared library of its own finds it there.
        for library in (prefix / "lib").glob("libpython*.so*"):
            _link(root / "lib" / library.name, f"{CLT_PYTHON}/lib/{library.name}")
    cache = Path("/etc/ld.so.cache")
    if cache.exists():
        shutil.copy(cache, root / "private/etc/ld.so.cache")
    _shared_seams(root)


def _shared_seams(root: Path) -> None:
    """Data and helpers of the host's programs."""
    for name in ("git-core", "terminfo", "misc", "file", "perl", "perl5", "locale", "vim", "awk"):
        if Path("/usr/share", name).exists():
            _link(root / "usr/share" / name, f"{HOST}/usr/share/{name}")
    _link(root / "usr/share/zoneinfo", "/var/db/timezone/zoneinfo")
    _link(root / "private/var/db/timezone/zoneinfo", f"{HOST}/usr/share/zoneinfo")
    for path in _PAM_HELPERS:
        if helper := host_tool(Path(path).name):
            _link(root / path[1:], helper)
    for folder in ("/usr/libexec/sudo",):
        if Path(folder).is_dir():
            _link(root / folder[1:], HOST + folder)
    sftp = next(
        (p for p in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if Path(p).exists()),
        "",
    )
    if sftp:
        _link(root / "usr/libexec/sftp-server", HOST + sftp)


def host_tool(name: str) -> str | None:
    """Where the host's tool `name` is inside a Mac (/.lab/host/...), or None when this host has none.

    Ubuntu 25.10 and newer have rewritten ones by the usual names (sudo-rs, uutils, where all are one program
    that goes by what it is called); those that the lab knows are beside them as sudo.ws, gnuls, gnucp ...
    """
    names = (f"{name}.ws", f"gnu{name}", name)
    for path in (Path(folder, one) for one in names for folder in _HOST_FOLDERS):
        if path.exists():
            real = os.path.realpath(path)
            # /bin/sh and friends may be links out of /usr; only /usr of the host is visible in a Mac.
            return HOST + real if real.startswith("/usr/") else f"{HOST}/usr{real}"
    return None


def _commands(root: Path, simulated: Iterable[str]) -> None:
    for folder, names in _HOST_TOOLS.items():
        for name in names.split():
            target = host_tool(name)
            if target:
                _link(root / folder[1:] / name, target)
    for path, name in _ALIASES.items():
        target = host_tool(name) or (host_tool("bash") if name == "zsh" else None)
        if target:
            _link(root / path[1:], target)
    for path in simulated:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        _link(root / path[1:], SIM)


def _homes(root: Path, mac: Mac) -> None:
    for record in mac.users.values():
        home = record.first("NFSHomeDirectory")
        if home.startswith("/Users/"):
            make_home(root, record)


def make_home(root: Path, record: Record) -> None:
    """Create a user's home as createhomedir does: 0750, the user's own (reference 5.1, B)."""
    home = root / record.first("NFSHomeDirectory").lstrip("/")
    uid, gid = int(record.first("UniqueID")), int(record.first("PrimaryGroupID"))
    if home.exists():
        return
    home.mkdir(parents=True)
    for name in ("Desktop", "Documents", "Downloads", "Library"):
        (home / name).mkdir(mode=0o700)
        os.chown(home / name, uid, gid)
    os.chown(home, uid, gid)
    home.chmod(0o750)


# ------------------------------------------------------------------------------------------ live projections


def project_directory(mac: Mac, root: Path = Path("/")) -> None:
    """Write passwd, group and shadow from the directory, so that getpwnam, sshd and sudo know the same
    people.

    macOS does not use these files; here they stand for Open Directory's answers.
    """
    unsigned = 1 << 32
    passwd, shadow = [], []
    for name, record in mac.users.items():
        if not record.first("UniqueID") or not record.first("PrimaryGroupID"):
            continue
        uid, gid = int(record.first("UniqueID")) % unsigned, int(record.first("PrimaryGroupID")) % unsigned
        home = record.first("NFSHomeDirectory", "/var/empty")
        shell = record.first("UserShell", "/usr/bin/false")
        passwd.append(f"{name}:x:{uid}:{gid}:{record.first('RealName', name)}:{home}:{shell}")
        if name == "_sshd":
            # Apple's own accounts answer to their name without the underscore too; the host's sshd asks
            # for that one.
            passwd.append(f"sshd:x:{uid}:{gid}:{record.first('RealName', name)}:{home}:{shell}")
        shadow.append(f"{name}:{record.password_hash or '*'}:19000:0:99999:7:::")
    groups = []
    for name, record in mac.groups.items():
        if not record.first("PrimaryGroupID"):
            continue
        gid = int(record.first("PrimaryGroupID")) % unsigned
        members = ",".join(m for m in group_members(mac, name) if m in mac.users)
        groups.append(f"{name}:x:{gid}:{members}")
    for file_name, lines, mode in (
        ("passwd", passwd, 0o644),
        ("group", groups, 0o644),
        ("shadow", shadow, 0o600),
    ):
        path = root / "private/etc" / file_name
        temporary = path.with_name(file_name + ".new")
        temporary.write_text("\n".join(lines) + "\n")
        temporary.chmod(mode)
        temporary.replace(path)


def group_members(mac: Mac, group: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """Names of a group's members, those of nested groups included."""
    record = mac.groups.get(group)
    if record is None or group in seen:
        return []
    members = list(record.attributes.get("GroupMembership", []))
    nested = set(record.attributes.get("NestedGroups", []))
    for other, candidate in mac.groups.items():
        if candidate.first("GeneratedUID") in nested:
            members += [m for m in group_members(mac, other, seen | {group}) if m not in members]
    return members


def password_matches(password: str, hashed: str) -> bool:
    """Whether a password belongs to a hash of `hash_password`."""
    parts = hashed.split("$")
    return len(parts) == 4 and hash_password(password, parts[2]) == hashed


def hash_password(password: str, salt: str = "") -> str:
    """A crypt(3) hash that the host's PAM accepts, for `Record.password_hash`; a random salt unless given."""
    tool = "/.lab/host/usr/bin/openssl" if Path("/.lab/host/usr/bin/openssl").exists() else "openssl"
    done = subprocess.run(
        [tool, "passwd", "-6", *(["-salt", salt] if salt else []), "-stdin"],
        input=password,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def set_timezone(mac: Mac, root: Path = Path("/")) -> None:
    """Point /etc/localtime at the zone, as systemsetup -settimezone does."""
    _link(root / "private/etc/localtime", f"/var/db/timezone/zoneinfo/{mac.timezone}")


def install_trust(root: Path, ca_pem: str) -> None:
    """Make the Mac trust the certificate authority of the lab, and only that one."""
    folder = root / "private/etc/ssl"
    (folder / "certs").mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_text(ca_pem)
    (folder / "cert.pem").chmod(0o644)
    _link(folder / "certs/ca-certificates.crt", "../cert.pem")
    _link(folder / "ca-certificates.crt", "cert.pem")
    name = _subject_hash(ca_pem)
    if name:
        _link(folder / "certs" / f"{name}.0", "../cert.pem")


@functools.cache
def _subject_hash(ca_pem: str) -> str:
    """The name under which OpenSSL looks for a certificate; empty when it is not a certificate."""
    command = ["openssl", "x509", "-hash", "-noout"]
    done = subprocess.run(command, input=ca_pem, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_hosts(root: Path, names: dict[str, str]) -> None:
    """/etc/hosts as on a Mac, followed by `names` (host name -> address) of the lab's fake upstreams."""
    lines = [etc.HOSTS.rstrip()] + [f"{address}\t{name}" for name, address in names.items()]
    (root / "private/etc/hosts").write_text("\n".join(lines) + "\n")


def toolchain(mac: Mac, root: Path = Path("/")) -> None:
    """Make the Command Line Tools appear or vanish as the model says, stubs in /usr/bin included."""
    clt = root / CLT[1:]
    if not mac.toolchain.installed:
        if clt.exists():
            shutil.rmtree(clt)
        for name in CLT_TOOLS:
            _link(root / "usr/bin" / name, SIM)
        return
    found = tools(root)
    bin_folder = clt / "usr/bin"
    bin_folder.mkdir(parents=True, exist_ok=True)
    for name in CLT_TOOLS:
        target = found.get(_CLT_HOST.get(name, name))
        if name == "python3":
            _clt_python(clt, found)
        elif name == "otool":
            _link(bin_folder / name, SIM)
        elif target and _CLT_HOST.get(name) in ("gcc", "g++"):
            _script(bin_folder / name, etc.COMPILER.replace("@TOOL@", target))
        elif target:
            _link(bin_folder / name, target)
        else:
            continue
        if name != "otool":
            _script(root / "usr/bin" / name, f'#!/bin/sh\nexec {CLT}/usr/bin/{name} "$@"\n')


def tools(root: Path = Path("/")) -> dict[str, str]:
    """Host tools by name as the Mac sees them, as `build` found them; "python" is the Command Line Tools'
    one.
    """
    found: dict[str, str] = json.loads((root / ".lab/tools.json").read_text())
    return found


def _record_tools(root: Path, host_python: Path) -> None:
    names = {_CLT_HOST.get(name, name) for name in CLT_TOOLS} - {"python3"} | set(BSD_TOOLS)
    found = {name: target for name in sorted(names) if (target := host_tool(name))}
    interpreter = host_python.resolve()
    inside = HOST if python_prefix(host_python) == Path("/usr") else CLT_PYTHON
    tail = interpreter if inside == HOST else interpreter.relative_to(python_prefix(host_python))
    found["python"] = f"{inside}/{str(tail).lstrip('/')}"
    found["python_version"] = _python_version(host_python)
    (root / ".lab/tools.json").write_text(json.dumps(found, indent=1))
    (root / ".lab/tools.json").chmod(0o644)


@functools.cache
def _python_version(host_python: Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([str(host_python), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _clt_python(clt: Path, found: dict[str, str]) -> None:
    """A Python that calls itself darwin: a virtual environment whose site sets sys.platform and stubs
    _scproxy.
    """
    usr = clt / "usr"
    _link(usr / "bin/python3", found["python"])
    (usr / "pyvenv.cfg").write_text(
        f"home = {Path(found['python']).parent}\ninclude-system-site-packages = false\n"
    )
    site = usr / f"lib/python{found['python_version']}/site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(etc.SITECUSTOMIZE)
    (site / "_scproxy.py").write_text(etc.SCPROXY)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() or path.exists():
        if path.is_symlink() and str(path.readlink()) == target:
            return
        path.unlink()
    path.symlink_to(target)


def _script(path: Path, text: str) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
    path.write_text(text)
    path.chmod(0o755)
