"""From a rental's first login to a manageable Mac, and the same again without a change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.remote import bootstrap, openssh

pytestmark = pytest.mark.lab
HOST = "tyo-03"


@pytest.fixture(scope="module")
def rental(make_lab: Callable[..., Any]) -> Any:
    return make_lab(HOST)


@pytest.fixture
def bare(rental: Any) -> Any:
    """One bare Mac."""
    if known_hosts(rental).exists() or rental.has(HOST, bootstrap.SUDOERS_FILE):
        rental.another_mac(HOST)
    return rental


@pytest.fixture
def ready(rental: Any) -> Any:
    """The Mac after bootstrap."""
    if not rental.has(HOST, bootstrap.SUDOERS_FILE):
        rental.ansible("playbooks/bootstrap.yml", HOST)
    return rental


@pytest.fixture
def before_site(rental: Any, request: pytest.FixtureRequest) -> Any:
    """The Mac after bootstrap, without anything of what serves."""
    if rental.has(HOST, "/opt/ds4"):
        rental.another_mac(HOST)
    return request.getfixturevalue("ready")


def known_hosts(lab: Any) -> Path:
    return Path(lab.fleet.host(HOST).vars["ds4_known_hosts"])


class TestBareMac:
    def test_a_rehearsal_says_what_is_missing_and_changes_nothing(self, bare):
        run = bare.ansible("playbooks/bootstrap.yml", HOST, "--check", "--diff")
        assert "install the Command Line Tools" in run.output
        assert "SHA256:" in run.output
        assert not known_hosts(bare).exists()
        assert bare.lab.exec(HOST, ["/bin/ls", bootstrap.SUDOERS_FILE]).returncode != 0
        assert bare.lab.exec(HOST, ["/usr/bin/xcode-select", "-p"]).returncode == 2

    def test_a_rehearsal_of_site_goes_on_from_the_declared_hardware(self, bare):
        run = bare.ansible("site.yml", HOST, "--check", "--diff")
        assert "playbooks/bootstrap.yml -l tyo-03" in run.output
        assert run.changed == 0
        assert "engine" in run.output

    def test_a_fingerprint_that_does_not_match_stops_before_the_first_login(self, bare):
        run = bare.ansible(
            "playbooks/bootstrap.yml", HOST, "-e", "ds4_host_key_fingerprint=SHA256:wrong", check=False
        )
        assert run.returncode != 0
        assert "nothing was recorded" in run.output
        assert not known_hosts(bare).exists()

    def test_site_says_that_bootstrap_is_missing(self, bare):
        run = bare.ansible("site.yml", HOST, check=False)
        assert run.returncode != 0
        assert "playbooks/bootstrap.yml -l tyo-03" in run.output

    def test_without_a_password_the_refusal_names_the_variable(self, bare):
        run = bare.ansible(
            "playbooks/bootstrap.yml", HOST, "-e", "ds4_bootstrap_password_file=''", check=False
        )
        assert run.returncode != 0
        assert "ds4_bootstrap_password_file" in run.output

    def test_the_account_of_the_inventory_is_tried_and_named_in_the_refusal(self, bare):
        run = bare.ansible("playbooks/bootstrap.yml", HOST, "-e", "ansible_user=ec2-user", check=False)
        assert run.returncode != 0
        assert "refuses the account ec2-user with the key" in run.output
        assert "the password in" in run.output

    def test_another_account_than_the_inventorys_is_refused_before_a_login(self, bare):
        run = bare.ansible("playbooks/bootstrap.yml", HOST, "-e", "ds4_bootstrap_user=ec2-user", check=False)
        assert run.returncode != 0
        assert "the account of the inventory is admin" in run.output

    def test_apple_offering_no_tools_is_said(self, bare):
        bare.lab.fault(HOST, "no-tools-offered", True)
        try:
            run = bare.ansible("playbooks/bootstrap.yml", HOST, check=False)
        finally:
            bare.lab.fault(HOST, "no-tools-offered", False)
        assert run.returncode != 0
        assert "softwareupdate offers no Command Line Tools" in run.output
        assert bare.lab.exec(HOST, ["/bin/ls", bootstrap.TRIGGER_FILE]).returncode != 0


class TestBootstrap:
    def test_it_makes_the_mac_manageable_and_shows_no_password(self, bare):
        # The label in the form of macOS 15; every other lab has the newer one.
        bare.lab.fault(HOST, "older-tools-label", True)
        try:
            run = bare.ansible("playbooks/bootstrap.yml", HOST, "-vvv")
        finally:
            bare.lab.fault(HOST, "older-tools-label", False)
        assert bare.lab.password not in run.output
        assert run.changed >= 2

    def test_key_login_and_sudo_need_no_password(self, ready):
        done = ready.ssh(HOST, "sudo -n id -u")
        assert done.stdout.strip() == "0", done.stderr

    def test_the_drop_in_has_the_right_owner_and_mode(self, ready):
        line = ready.exec(HOST, "/bin/ls", "-l", bootstrap.SUDOERS_FILE).split()
        assert (line[0][:10], line[2], line[3]) == ("-r--r-----", "root", "wheel")

    def test_the_tools_are_selected_and_the_trigger_is_gone(self, ready):
        assert ready.exec(HOST, "/usr/bin/xcode-select", "-p").strip() == bootstrap.TOOLS_DIR
        assert ready.lab.exec(HOST, ["/bin/ls", bootstrap.TRIGGER_FILE]).returncode != 0

    def test_it_stays_awake_and_does_not_update_itself(self, ready):
        power = ready.exec(HOST, "/usr/bin/pmset", "-g")
        settings = dict(line.split()[:2] for line in power.splitlines() if len(line.split()) == 2)
        assert (settings["sleep"], settings["autorestart"]) == ("0", "1")
        for key in ("AutomaticDownload", "AutomaticallyInstallMacOSUpdates"):
            assert ready.exec(HOST, "/usr/bin/defaults", "read", bootstrap.UPDATE_DOMAIN, key).strip() == "0"
        assert "turned on" in ready.exec(HOST, "/usr/sbin/softwareupdate", "--schedule")

    def test_the_second_run_changes_nothing(self, ready):
        run = ready.ansible("playbooks/bootstrap.yml", HOST, "--diff")
        assert run.changed == 0
        assert "Install the Command Line Tools" not in run.output.split("skipping")[0]

    def test_a_rehearsal_of_a_ready_mac_has_nothing_to_say(self, ready):
        assert ready.ansible("playbooks/bootstrap.yml", HOST, "--check").changed == 0

    def test_the_password_is_not_needed_any_more(self, ready):
        run = ready.ansible("playbooks/bootstrap.yml", HOST, "-e", "ds4_bootstrap_password_file=''")
        assert run.changed == 0


class TestHostKey:
    @pytest.mark.parametrize("form", ["in clear", "hashed"])
    def test_a_changed_key_is_refused_with_both_fingerprints(self, ready, form):
        path = known_hosts(ready)
        recorded = path.read_text()
        other = "AAAAC3NzaC1lZDI1NTE5AAAAIBhZJ5y0Yp0gVvUTwYbFQ3pZQ7Qv0o2kCq8VQ0kq9f3S"
        real = next(line.key for line in openssh.recorded(HOST, [path]) if line.kind == "ssh-ed25519")
        path.write_text(f"{HOST} ssh-ed25519 {other}\n")
        if form == "hashed":
            subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
        wrong = path.read_text()
        try:
            # Without the connection that is open already.
            alone = ("-e", "ansible_control_path=none")
            run = ready.ansible("playbooks/bootstrap.yml", HOST, *alone, check=False)
            assert path.read_text() == wrong
        finally:
            path.write_text(recorded)
        assert run.returncode != 0
        assert openssh.fingerprint(other) in run.output
        assert openssh.fingerprint(real) in run.output


class TestBeforeSite:
    """A Mac that is bootstrapped and has had nothing else."""

    def test_who_has_access_can_be_applied(self, before_site):
        # This one is too small to serve, and what only stages is not reached by tunnels.
        as_jump = ("-e", "ds4_role=jump")
        assert before_site.ansible("playbooks/access.yml", HOST, *as_jump).changed
        assert before_site.ansible("playbooks/access.yml", HOST, *as_jump).changed == 0
        assert "Match User _ds4tunnel" in before_site.exec(
            HOST, "/bin/cat", "/etc/ssh/sshd_config.d/050-ds4.conf"
        )

    def test_it_can_become_a_jump_mac_whatever_the_tunnel_account_left_there(self, before_site):
        # Before, the directory of its key was the tunnel account's own.
        folder, others = "/opt/ds4/etc/jump", "/private/etc/not-of-ours"
        planted = f"mkdir -p {folder}; ln -s {others} {folder}/key.pub; chown -R nobody {folder}"
        before_site.exec(HOST, "/bin/sh", "-c", f"echo kept >{others}; {planted}")
        before_site.ansible("playbooks/jump.yml", HOST, "-e", "ds4_role=jump")
        assert before_site.exec(HOST, "/bin/cat", others) == "kept\n"
        assert "PUBLIC" in before_site.exec(
            HOST, "/usr/bin/ssh-keygen", "-e", "-f", "/opt/ds4/etc/jump/key.pub"
        )
