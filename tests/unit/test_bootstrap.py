"""What a bare Mac still needs, decided from one read-only answer; and host keys that are checked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ds4fleet.errors import OperatorError
from ds4fleet.remote import bootstrap

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBhZJ5y0Yp0gVvUTwYbFQ3pZQ7Qv0o2kCq8VQ0kq9f3S ops@example"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHcmaHcmaHcmaHcmaHcmaHcmaHcmaHcmaHcmaHcmaHcm other"
POWER = {"sleep": 0, "womp": 1, "powernap": 0}
WANTED = bootstrap.Wanted(user="admin", keys=[KEY], power=POWER, timezone="Asia/Tokyo")


def answer(**changes: str) -> str:
    sections = {
        "user": "admin",
        "system": "Darwin\n26.5.1",
        "home": "drwxr-x---",
        "keys": KEY,
        "sudo": "yes",
        "sudoers": bootstrap.sudoers_text("admin"),
        "tools": bootstrap.TOOLS_DIR,
        "python": "Python 3.9.6",
        "installing": "",
        "power": "Currently in use:\n sleep 0 (sleep prevented by powerd)\n womp 1\n powernap 0",
        "powerkeys": "Capabilities for AC Power:\n sleep\n womp\n powernap",
        "updates": "AutomaticDownload 0\nAutomaticallyInstallMacOSUpdates 0",
        "timezone": "/var/db/timezone/zoneinfo/Asia/Tokyo",
        "filevault": "FileVault is Off.",
        "end": "",
    } | changes
    return "".join(f"\n==> {name}\n{text}\n" for name, text in sections.items())


def missing(wanted: bootstrap.Wanted = WANTED, **changes: str) -> list[str]:
    return [
        step.name
        for step in bootstrap.decide("tyo-01", bootstrap.Probe.parse("tyo-01", answer(**changes)), wanted)
    ]


#: What start files of a login shell have been seen to print, before an answer and after it.
CHATTER = "Last login: Mon\n==> Loading plugins\n==> user ada\n\x1b[1mhi\x1b[0m\n"


class TestWhatIsMissing:
    def test_nothing_on_a_mac_that_is_ready(self):
        assert missing() == []

    def test_a_chatty_login_shell_changes_nothing(self):
        for said in (CHATTER + answer(), answer() + CHATTER, CHATTER + "no newline" + answer()):
            for text in (said, said.replace("\n", "\r\n")):
                assert bootstrap.decide("a", bootstrap.Probe.parse("a", text), WANTED) == []

    def test_everything_on_a_bare_mac(self):
        bare = {
            "keys": "",
            "sudo": "",
            "sudoers": "",
            "tools": "",
            "python": "",
            "updates": "",
            "timezone": "/x/zoneinfo/UTC",
        }
        assert missing(**bare) == ["key", "sudo", "tools", "settings"]

    @pytest.mark.parametrize(
        ("changes", "step"),
        [
            ({"keys": OTHER}, "key"),
            ({"keys": f'from="192.0.2.1" {KEY}'}, None),
            ({"sudoers": "admin ALL=(ALL) NOPASSWD: /bin/ls"}, "sudo"),
            ({"sudo": ""}, "sudo"),
            ({"tools": "/Applications/Xcode.app/Contents/Developer", "python": ""}, "tools"),
            ({"tools": ""}, "tools"),
            ({"power": " sleep 10\n womp 1\n powernap 0"}, "settings"),
            ({"updates": "AutomaticCheckEnabled 1"}, "settings"),
        ],
    )
    def test_one_thing(self, changes, step):
        assert missing(**changes) == ([step] if step else [])

    def test_only_power_settings_that_differ_are_set(self):
        probe = bootstrap.Probe.parse("tyo-01", answer(power=" sleep 10\n womp 1\n powernap 0"))
        (step,) = bootstrap.decide("tyo-01", probe, WANTED)
        assert "pmset -a sleep 0\n" in step.script
        assert "sleep 10 -> 0" in step.what

    def test_a_setting_that_the_mac_does_not_know_is_said_and_left_alone(self):
        wanted = bootstrap.Wanted("admin", [KEY], {"autorestart": 1}, "")
        probe = bootstrap.Probe.parse("tyo-01", answer())
        assert bootstrap.decide("tyo-01", probe, wanted) == []
        assert "autorestart" in bootstrap.warnings("tyo-01", probe, wanted)[0]

    def test_filevault_is_warned_of(self):
        probe = bootstrap.Probe.parse("tyo-01", answer(filevault="FileVault is On."))
        assert "every reboot stops" in bootstrap.warnings("tyo-01", probe, WANTED)[0]

    def test_filevault_that_waits_for_the_next_login_is_warned_of(self):
        deferred = "FileVault is Off.\nDeferred enablement appears to be active for user 'admin'."
        probe = bootstrap.Probe.parse("tyo-01", answer(filevault=deferred))
        assert "fdesetup disable" in bootstrap.warnings("tyo-01", probe, WANTED)[0]

    def test_updates_that_an_earlier_release_switched_off_come_again(self):
        off = "\n".join(f"{key} 0" for key in bootstrap.UPDATE_KEYS)
        probe = bootstrap.Probe.parse("tyo-01", answer(updates=off))
        (step,) = bootstrap.decide("tyo-01", probe, WANTED)
        assert "CriticalUpdateInstall on, ConfigDataInstall on" in step.what
        assert "softwareupdate --schedule on" in step.script
        assert "AutomaticDownload" not in step.script

    def test_an_xcode_that_is_selected_stays_selected_and_is_said(self):
        xcode = "/Applications/Xcode.app/Contents/Developer"
        probe = bootstrap.Probe.parse("tyo-01", answer(tools=xcode))
        assert bootstrap.decide("tyo-01", probe, WANTED) == []
        assert xcode in bootstrap.warnings("tyo-01", probe, WANTED)[0]
        (step,) = bootstrap.decide(
            "tyo-01", bootstrap.Probe.parse("tyo-01", answer(tools=xcode, python="")), WANTED
        )
        # After the installation, only where what is selected is not there.
        assert step.script.index('[ ! -d "$selected" ]') < step.script.index("--switch")

    @pytest.mark.parametrize(
        ("offered", "newest"),
        [
            (["for Xcode-16.4", "for Xcode 26.5-26.5", "for Xcode 26.4-26.4"], "for Xcode 26.5-26.5"),
            (["for Xcode-15.3", "beta 2 for Xcode-16.0"], "for Xcode-15.3"),
            (["for Xcode-9.4", "for Xcode-10.1"], "for Xcode-10.1"),
            (["beta 2 for Xcode 27.1-27.1", "beta for Xcode 27.2-27.2"], "beta for Xcode 27.2-27.2"),
            ([], ""),
        ],
    )
    def test_the_newest_released_tools_are_chosen(self, offered, newest):
        listing = "".join(f"* Label: Command Line Tools {name} \n\tTitle: x\n" for name in offered)
        done = subprocess.run(
            ["/bin/sh", "-c", bootstrap.NEWEST_TOOLS],
            input=listing,
            text=True,
            capture_output=True,
            check=True,
        )
        assert done.stdout.strip() == (f"Command Line Tools {newest}" if newest else "")

    def test_an_installation_that_runs_is_waited_for_and_not_started_again(self):
        probe = bootstrap.Probe.parse("tyo-01", answer(tools="", python="", installing="yes"))
        (step,) = bootstrap.decide("tyo-01", probe, WANTED)
        assert step.script == "true\n"


class TestRefusals:
    def test_no_key_at_all(self):
        with pytest.raises(OperatorError, match="no key to let in"):
            missing(bootstrap.Wanted("admin", []))

    def test_a_key_that_is_none(self):
        with pytest.raises(OperatorError, match="not one public key"):
            missing(bootstrap.Wanted("admin", ["-----BEGIN OPENSSH PRIVATE KEY-----"]))

    def test_a_time_zone_that_is_none(self):
        for name, hint in (("Mars/Base", "no time zone"), ("Asia/Tokio", "did you mean Asia/Tokyo")):
            with pytest.raises(OperatorError, match=hint):
                missing(bootstrap.Wanted("admin", WANTED.keys, timezone=name))

    def test_a_password_file_that_is_missing_or_open_to_others(self, tmp_path):
        path = tmp_path / "password"
        bootstrap.check_password_file("a", "")
        with pytest.raises(OperatorError, match="is not there"):
            bootstrap.check_password_file("a", str(path))
        path.write_text("x")
        path.chmod(0o644)
        with pytest.raises(OperatorError, match="chmod 600"):
            bootstrap.check_password_file("a", str(path))
        path.chmod(0o600)
        bootstrap.check_password_file("a", str(path))

    def test_a_host_that_is_no_mac(self):
        with pytest.raises(OperatorError, match="no Mac: it runs Linux"):
            missing(system="Linux\n6.1")

    def test_an_answer_that_was_cut_off(self):
        with pytest.raises(OperatorError, match="cut off"):
            bootstrap.Probe.parse("tyo-01", "==> user\nadmin\n")

    def test_a_python_that_is_too_old(self):
        with pytest.raises(OperatorError, match=r"Python 3\.8"):
            missing(python="Python 3.8.2")


class TestScripts:
    @pytest.mark.parametrize("script", [bootstrap.PROBE, bootstrap.TOOLS_STATE])
    def test_fixed_scripts_are_posix_sh(self, script):
        subprocess.run(["sh", "-n", "-c", script], check=True)

    def test_step_scripts_are_posix_sh(self):
        probe = bootstrap.Probe.parse(
            "a", answer(keys="", sudo="", tools="", python="", updates="", power=" sleep 1")
        )
        for step in bootstrap.decide("a", probe, WANTED):
            subprocess.run(["sh", "-n", "-c", step.script], check=True)

    def test_the_key_script_keeps_what_is_there_and_is_repeatable(self, tmp_path):
        (tmp_path / ".ssh").mkdir()
        keys = tmp_path / ".ssh" / "authorized_keys"
        keys.write_text(OTHER)  # without a newline at its end
        probe = bootstrap.Probe.parse("a", answer(keys=OTHER))
        (step,) = bootstrap.decide("a", probe, WANTED)
        subprocess.run(
            ["sh", "-c", step.script], check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        )
        assert keys.read_text() == f"{OTHER}\n{KEY}\n"
        assert keys.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in keys.parent.iterdir()] == ["authorized_keys"]

    @pytest.mark.parametrize(
        ("listing", "label"),
        [
            ("list__macOS26_clt_and_os.txt", "Command Line Tools for Xcode 26.5-26.5"),
            ("COMPOSED_list__older_label_format.txt", "Command Line Tools for Xcode-16.4"),
        ],
    )
    @pytest.mark.parametrize("planted", ["", "file", "link", "link to a directory", "fifo", "directory"])
    def test_the_newest_label_is_chosen_in_both_formats(self, tmp_path, listing, label, planted):
        outside, trigger = tmp_path / "outside", tmp_path / "trigger"
        outside.mkdir()
        if planted == "file":
            trigger.touch()
        elif planted == "fifo":
            os.mkfifo(trigger)
        elif planted == "directory":
            (trigger / "full").mkdir(parents=True)
        elif planted:
            trigger.symlink_to(outside if "directory" in planted else outside / "made")
        recording = Path(__file__).parents[1] / "recordings" / "softwareupdate" / listing
        log = tmp_path / "log"
        fake = tmp_path / "softwareupdate"
        fake.write_text(f'#!/bin/sh\n[ "$1" = -l ] && cat "{recording}" || echo "$*"\n')
        fake.chmod(0o755)
        script = bootstrap.decide("a", bootstrap.Probe.parse("a", answer(tools="", python="")), WANTED)[
            0
        ].script
        for path, here in [
            ("/usr/sbin/softwareupdate", fake),
            ("/usr/bin/xcode-select", "true"),
            (bootstrap.TRIGGER_FILE, trigger),
            ("/usr/bin/mktemp", shutil.which("mktemp")),
            (bootstrap.TOOLS_LOG, log),
            (bootstrap.TOOLS_PID, tmp_path / "pid"),
        ]:
            script = script.replace(path, str(here))
        done = subprocess.run(["sh", "-c", script + "wait\n"], capture_output=True, text=True, check=True)
        assert done.stdout == label + "\n"
        assert log.read_text() == f"-i {label}\nds4-fleet: finished with status 0\n"
        assert not trigger.exists() and not list(outside.iterdir())


class TestSentences:
    @pytest.mark.parametrize(
        ("said", "part"),
        [
            (
                "ssh: connect to host 192.0.2.11 port 22: Connection timed out",
                "tyo-01 does not answer: connect to host 192.0.2.11 port 22: Connection timed out",
            ),
            (
                "Make sure it can be reached over ssh: ssh: connect to host a port 22: No route to host",
                "tyo-01 does not answer: connect to host a port 22: No route to host",
            ),
            ("Host key verification failed.", "host key has changed"),
            ("No ED25519 host key is known for a.\nHost key verification failed.", "no host key is recorded"),
            ("admin@192.0.2.11: Permission denied (publickey,password).", "refuses this login"),
        ],
    )
    def test_unreachable(self, said, part):
        assert part in bootstrap.unreachable("tyo-01", said)

    def test_a_missing_python_is_told_from_other_failures(self):
        assert bootstrap.lacks_python("/bin/sh: /Library/x/usr/bin/python3: No such file or directory")
        assert bootstrap.lacks_python("zsh:1: no such file... /x/python3: not found")
        assert bootstrap.lacks_python(
            "xcode-select: note: No developer tools were found, requesting install."
        )
        assert not bootstrap.lacks_python("Traceback (most recent call last):")
