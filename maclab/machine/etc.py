"""The text files of a simulated Mac's /etc and a few others, as macOS ships them (shortened where nothing
reads them).

Sources: reference 5.2 (sshd_config and 100-macos.conf, sudoers), 2.7 (newsyslog), 1.7 (no /etc/fstab on a
stock Mac); the rest is general knowledge of macOS 14 to 26. Where the host's own programs need another
word than Apple's (PAM module names), the line says so.
"""

from __future__ import annotations

import plistlib
import shutil
from pathlib import Path

from maclab.machine.model import Mac

PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
HOSTS = """\
##
# Host Database
#
# localhost is used to configure the loopback interface
# when the system is booting.  Do not change this entry.
##
127.0.0.1\tlocalhost
255.255.255.255\tbroadcasthost
::1             localhost
"""

_FILES: dict[str, str] = {
    "hosts": HOSTS,
    "ssh/sshd_config": """\
# This is the sshd server system-wide configuration file.  See
# sshd_config(5) for more information.

# This sshd was compiled with PATH=/usr/bin:/bin:/usr/sbin:/sbin

Include /etc/ssh/sshd_config.d/*

# This file provides defaults for options that are not set in the files
# included above; OS updates may rewrite it.
AuthorizedKeysFile\t.ssh/authorized_keys
""",
    "ssh/sshd_config.d/100-macos.conf": """\
# Options set by macOS that differ from the OpenSSH defaults.
UsePAM yes
AcceptEnv LANG LC_*
Subsystem\tsftp\t/usr/libexec/sftp-server
""",
    "ssh/ssh_config": "Host *\n    SendEnv LANG LC_*\n",
    "sudoers": """\
##
## User specification
##
Defaults env_reset
Defaults env_keep += "BLOCKSIZE"
Defaults env_keep += "COLORFGBG COLORTERM"
Defaults env_keep += "__CF_USER_TEXT_ENCODING"
Defaults env_keep += "CHARSET LANG LANGUAGE LC_ALL LC_COLLATE LC_CTYPE"
Defaults env_keep += "LC_MESSAGES LC_MONETARY LC_NUMERIC LC_TIME"
Defaults env_keep += "LINES COLUMNS"
Defaults env_keep += "LSCOLORS"
Defaults env_keep += "SSH_AUTH_SOCK"
Defaults env_keep += "TZ"
Defaults env_keep += "DISPLAY XAUTHORIZATION XAUTHORITY"
Defaults env_keep += "EDITOR VISUAL"
Defaults env_keep += "HOME MAIL"

root\t\tALL = (ALL) ALL
%admin\t\tALL = (ALL) ALL

## Read drop-in files from /private/etc/sudoers.d
## (the '#' here does not indicate a comment)
#includedir /private/etc/sudoers.d
""",
    "newsyslog.conf": """\
# configuration file for newsyslog
# logfilename          [owner:group]    mode count size when  flags [/pid_file] [sig_num]
/var/log/ftp.log\t\t\t640  5\t   1000\t*     J
/var/log/hwmond.log\t\t\t640  5\t   1000\t*     J
/var/log/ipfw.log\t\t\t640  5\t   1000\t*     J
/var/log/lpr.log\t\t\t640  5\t   1000\t*     J
/var/log/ppp.log\t\t\t640  5\t   1000\t*     J
/var/log/wtmp\t\t\t\t644  3\t   *\t@01T05 B

# files in /etc/newsyslog.d/ are included
<include> /etc/newsyslog.d/*
""",
    "newsyslog.d/wifi.conf": """\
# logfilename          [owner:group]    mode count size when  flags [/pid_file] [sig_num]
/var/log/wifi.log\t\t\t\t644  10\t   *\t$D0   J
""",
    "shells": """\
# List of acceptable shells for chpass(1).
# Ftpd will not allow users to connect who are not using
# one of these shells.

/bin/bash
/bin/csh
/bin/dash
/bin/ksh
/bin/sh
/bin/tcsh
/bin/zsh
""",
    "paths": "/usr/local/bin\n/System/Cryptexes/App/usr/bin\n/usr/bin\n/bin\n/usr/sbin\n/sbin\n",
    "profile": """\
# System-wide .profile for sh(1)

if [ -x /usr/libexec/path_helper ]; then
\teval `/usr/libexec/path_helper -s`
fi
""",
    "zprofile": """\
# System-wide profile for interactive zsh(1) login shells.

if [ -x /usr/libexec/path_helper ]; then
\teval `/usr/libexec/path_helper -s`
fi
""",
    "fstab.hd": """\
IGNORE THIS FILE.
This file does nothing, contains no useful data, and might go away in
future releases.  Do not depend on this file or its contents.
""",
    # Names of the host's PAM modules; Apple's are pam_opendirectory.so and friends.
    "pam.d/sshd": """\
# sshd: auth account password session
auth       required       pam_unix.so
account    required       pam_nologin.so
account    required       pam_unix.so
password   required       pam_deny.so
session    required       pam_env.so conffile=/.lab/pam_env.conf
""",
    "pam.d/sudo": """\
# sudo: auth account password session
auth       required       pam_unix.so
account    required       pam_permit.so
password   required       pam_deny.so
session    required       pam_permit.so
""",
    "pam.d/other": "auth required pam_deny.so\naccount required pam_deny.so\nsession required pam_deny.so\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n",
    "resolv.conf": "",
}
_MODES = {"sudoers": 0o440}

#: `cc` of the Command Line Tools: the host's compiler, which may know neither frameworks nor Objective-C's
#: collector.
COMPILER = """\
#!/bin/bash
# Apple's compiler driver over this machine's own: frameworks are noted, not linked.
args=()
while [ $# -gt 0 ]; do
  case $1 in
    -framework) shift ;;
    -fobjc-arc|-arch|-mmacosx-version-min=*) [ "$1" = -arch ] && shift ;;
    *) args+=("$1") ;;
  esac
  shift
done
exec @TOOL@ --sysroot=/.lab/host -B/.lab/host/usr/bin/ "${args[@]}"
"""

SITECUSTOMIZE = '''\
"""Python of the Command Line Tools: it runs on Darwin."""
import sys

sys.platform = "darwin"
'''
SCPROXY = '''\
"""SystemConfiguration's proxy settings: none."""


def _get_proxy_settings():
    return {}


def _get_proxies():
    return {}
'''

_SSH_JOB = {
    "Label": "com.openssh.sshd",
    "Program": "/usr/libexec/sshd-keygen-wrapper",
    "ProgramArguments": ["/usr/sbin/sshd", "-i"],
    "Sockets": {"Listeners": {"SockServiceName": "ssh", "Bonjour": ["ssh", "sftp-ssh"]}},
    "inetdCompatibility": {"Wait": False, "Instances": 42},
    "StandardErrorPath": "/dev/null",
    "SHAuthorizationRight": "system.preferences",
    "POSIXSpawnType": "Interactive",
}
_NEWSYSLOG_JOB = {
    "Label": "com.apple.newsyslog",
    "ProgramArguments": ["/usr/sbin/newsyslog"],
    "StartCalendarInterval": [{"Minute": 0}, {"Minute": 30}],
}


def write(root: Path, mac: Mac) -> None:
    """Write every file that is not there yet, so that a Mac that is booted again keeps what was changed."""
    folder = root / "private/etc"
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text)
            path.chmod(_MODES.get(name, 0o644))
    for name in ("services", "protocols"):
        if Path("/etc", name).exists() and not (folder / name).exists():
            shutil.copy(Path("/etc", name), folder / name)
    # Apple's sshd was compiled with another PATH than the host's.
    (root / ".lab/pam_env.conf").write_text(f"PATH DEFAULT={PATH}\n")
    library = root / "System/Library"
    for file_name, job in (("ssh.plist", _SSH_JOB), ("com.apple.newsyslog.plist", _NEWSYSLOG_JOB)):
        (library / "LaunchDaemons" / file_name).write_bytes(plistlib.dumps(job))
    (library / "CoreServices/SystemVersion.plist").write_bytes(system_version(mac))
    link = root / "private/var/select/sh"
    if not link.is_symlink():
        link.symlink_to("/bin/bash")


def system_version(mac: Mac) -> bytes:
    """/System/Library/CoreServices/SystemVersion.plist (platform.mac_ver reads it)."""
    return plistlib.dumps(
        {
            "BuildID": mac.boot.session_uuid,
            "ProductBuildVersion": mac.os.build,
            "ProductCopyright": "1983-2026 Apple Inc.",
            "ProductName": "macOS",
            "ProductUserVisibleVersion": mac.os.version,
            "ProductVersion": mac.os.version,
            "iOSSupportVersion": "26.5",
        }
    )
