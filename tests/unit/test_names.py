"""Names of the inventory: each means itself, and nothing more, in every file that it reaches on a Mac."""

from __future__ import annotations

import base64
import plistlib
import shutil
import struct
import subprocess
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4agent.mac import accounts, volumes
from ds4fleet.access import users
from ds4fleet.errors import OperatorError
from ds4fleet.inventory import names
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.layout import Paths
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan
from ds4fleet.remote import bootstrap
from ds4fleet.tunnel.selection import spec_of
from tests.support.tunnel_ends import SSHD
from tests.unit import plan_mac as mac


def key(number: int = 1) -> str:
    """A public key of the right form."""
    body = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + bytes([number]) * 32
    return "ssh-ed25519 " + base64.b64encode(body).decode()


def plan(**given_: Any) -> HostPlan:
    return make_plan("tyo-01", mac.variables(128, **given_))


def content(made: HostPlan, path: str) -> str:
    return str(next(entry.content for entry in made.files if entry.path == path))


SSHD_DROP_IN = "/etc/ssh/sshd_config.d/050-ds4.conf"
#: Names that would do something, by the variable that they come in.
HOSTILE: Mapping[str, tuple[Any, ...]] = {
    "ds4_tunnel_user": ("*", "!admin", "a,b", "a b", "all\nPermitRootLogin yes", "admin", "root", "-x", "?"),
    "ds4_service_user": ("root", "admin", "Admin", "../x", "a/b", "a:b", "a\n", "", None, "_ds4tunnel", "é"),
    "ds4_seed_user": ("_ds4", "*", "-oProxyCommand=x", "a@b", "_ds4seed\r"),
    "ds4_bootstrap_user": ("ALL", "Defaults", "X_Alias", "a ALL=(ALL) ALL\nb", "%w", "#0", "a b", "-l"),
    "ds4_storage_models_volume": ("../../x", "a\nb", "-x", "Macintosh HD", "data", "disk3", "ds4-kv", " a"),
    "ds4_storage_kv_volume": ("Preboot", "a/b", "a:b", "x\x00", "DS4-MODELS", "é"),
    "ds4_storage_container": ("-x", "disk3; x", "../disk3", "disk3\n"),
    "ds4_timezone": ("../../etc/passwd", "/etc/passwd", "Asia/../x", "-settimezone", "Asia/Tokio", "a\nb"),
    "ds4_engine_repo": ("--upload-pack=x", "ext::sh -c x", "https://x y", "https://x\n", "", "-x:y", "x::y"),
    "ds4_prefetch_address": ("-oProxyCommand=x", "a b", "a@b", "x\n"),
    "ds4_weights_token_file": ("token", "/a/../b", "/a\n", "/.."),
    "ds4_known_hosts": ("/a\nHost *",),
    "ds4_tunnel_keys": (
        [f'command="sh" {key()}'],
        [key() + "\rssh-ed25519 AAAA"],
        [key() + "\n" + key(2)],
        [key() + " a\x85b"],
        ["-----BEGIN OPENSSH PRIVATE KEY-----"],
        ["ssh-ed25519"],
        [key().replace("ed25519", "rsa", 1)],
    ),
    "ds4_admin_keys": ([f'from="192.0.2.1" {key()}'], [key() + "\r"[:1] + "x"]),
    "ds4_access": ({"a b": {"keys": [], "to": []}}, {"a\nb": {"keys": [key()], "to": ["all"]}},
                   {"a": {"keys": [f"restrict {key()}"], "to": []}}),
    "ds4_server_extra_args": (["--x\nport=1"], ["--x\r"], ["\x00"]),
    "ds4_port": (22, 0, 70000, "80\n", "x"),
    "ds4_tunnel_port": (-1, 65536, "1\n2"),
    "ds4_power": ({"sleep; reboot": 1}, {"sleep": "0; reboot"}, {"-a": 1}),
    "ds4_verify_prompt": ("a\x00b",),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in HOSTILE for value in HOSTILE[name]])
def test_a_name_that_would_mean_more_is_refused_before_anything_is_planned(name: str, value: Any) -> None:
    made = plan(**{name: value})
    assert made.refusals, (name, value)
    assert not made.files and not made.steps
    for refusal in made.refusals:
        assert refusal.startswith("tyo-01: ")
        assert refusal.isprintable(), refusal


def test_the_defaults_and_usual_names_pass() -> None:
    for given_ in (
        {},
        {"ds4_service_user": "llm", "ds4_tunnel_user": "tunnel-1", "ds4_seed_user": "_seed"},
        {"ds4_storage_models_volume": "DS4 Models", "ds4_storage_kv_volume": "kv.2"},
        {"ds4_storage_container": "disk3"},
        {"ds4_timezone": "America/Argentina/Buenos_Aires", "ds4_tunnel_keys": [key() + " Ada Löve"]},
        {"ds4_engine_repo": "git@git.example.net:team/ds4.git", "ds4_bootstrap_user": "ec2-user"},
        {"ds4_admin_keys": key() + "\n", "ds4_access": {"ada@x": {"keys": [key()], "to": ["all"]}}},
    ):
        assert names.mistakes({**mac.variables(128), **given_}, host="tyo-01") == []


def test_no_account_of_ours_is_the_one_that_the_operator_logs_in_with() -> None:
    found = names.mistakes({"ds4_service_user": "ops"}, login="ops")
    assert any("ansible_user" in sentence for sentence in found)
    assert names.mistakes({"ds4_service_user": "ops", "ds4_bootstrap_user": "ops"})


def test_a_template_is_no_name_yet_where_nothing_fills_it_in() -> None:
    given_ = {"ds4_service_user": "{{ service }}"}
    assert names.mistakes(given_, templated=False) == []
    assert names.mistakes(given_)


# What passes is inert. Text is drawn from all of Unicode and from the signs that these files know.
signs = st.text(st.sampled_from("ab_-.*!?,:;/\\'\"#%&@=()[]{}<>|~$`^+ \n\r\t\x00\x85\u2028éA0"), max_size=12)
anything = st.one_of(st.text(max_size=20), signs, st.from_regex(r"_?[a-z][a-z0-9_-]{0,8}", fullmatch=True))


@settings(deadline=None, max_examples=200)
@given(anything, anything)
def test_any_account_is_refused_or_inert_in_every_file(service: str, tunnel: str) -> None:
    made = plan(ds4_service_user=service, ds4_tunnel_user=tunnel)
    if made.refusals:
        return
    matches = [
        line.split() for line in content(made, SSHD_DROP_IN).splitlines() if "Match" in line.split()[:1]
    ]
    assert matches == [["Match", "User", tunnel]]
    assert not set("*?!,") & set(tunnel)
    assert plistlib.loads(content(made, "/Library/LaunchDaemons/com.ds4fleet.server.plist").encode())[
        "UserName"
    ] == service  # fmt: skip
    rotated = [line for line in content(made, "/etc/newsyslog.d/ds4.conf").splitlines() if line[0] != "#"]
    assert [line.split()[1] for line in rotated] == [f"{service}:{service}"]
    for user in made.accounts.users:
        assert user.name == Path("/Users", user.name).name
        words = accounts.user_attributes({"name": user.name, "home": "/x", "shell": "/y"}, 1, 1)
        assert not user.name.startswith("-") and words
    assert service != tunnel


@settings(deadline=None, max_examples=100)
@given(anything)
def test_any_seed_account_is_refused_or_inert(seed: str) -> None:
    made = plan(ds4_seed_user=seed)
    if made.refusals:
        return
    drop_in = next(entry.content for entry in made.files if entry.path == Paths().seed_sshd)
    assert [line.split()[1:] for line in drop_in.splitlines() if line.startswith("Match")] == [["User", seed]]


@settings(deadline=None, max_examples=200)
@given(anything)
def test_any_login_is_refused_or_one_rule_of_sudoers(user: str) -> None:
    if names.mistakes({"ds4_bootstrap_user": user}):
        return
    _comment, rule = bootstrap.sudoers_text(user).splitlines()
    assert rule == f"{user} ALL=(ALL) NOPASSWD: ALL"
    assert not set("%#+!,:\\ ") & set(user) and not user.isupper()


@settings(deadline=None, max_examples=200)
@given(anything, anything)
def test_any_volume_is_refused_or_one_word_of_diskutil(models: str, kv: str) -> None:
    made = plan(ds4_storage_models_volume=models, ds4_storage_kv_volume=kv)
    if made.refusals:
        return
    for volume in made.volumes:
        words = volumes.create_arguments({"name": volume.name, "mount_point": "/m"}, {"reference": "disk3"})
        assert words[4] == volume.name and not volume.name.startswith("-")
        # Should it ever be mounted where macOS likes, it is there and nowhere else.
        assert Path("/Volumes", volume.name).parent == Path("/Volumes")
        assert volume.name.isprintable() and not set("/:") & set(volume.name)
        assert volume.mount_point in ("/opt/ds4/models", "/opt/ds4/kv")


comments = st.one_of(st.just(""), st.text(max_size=30), signs)


@settings(deadline=None, max_examples=200)
@given(signs, comments, comments)
def test_any_key_is_refused_or_one_line_that_begins_with_our_options(
    before: str, comment: str, user: str
) -> None:
    text = f"{before}{key()} {comment}"
    try:
        parsed = parse_key(text)
    except ValueError:
        assert plan(ds4_tunnel_keys=[text]).refusals
        return
    assert parsed.line == key() and not before.strip()
    made = plan(ds4_tunnel_keys=[text], ds4_access={user: {"keys": [text], "to": ["all"]}})
    if made.refusals:
        assert not names.USER.takes(user)
        return
    lines = content(made, "/etc/ssh/ds4_tunnel_keys").split("\n")[1:-1]
    assert len(lines) == len(content(made, "/etc/ssh/ds4_tunnel_keys").splitlines()) - 1 == 2
    for line in lines:
        assert line.startswith(f'restrict,pty,port-forwarding,permitopen="127.0.0.1:8000" {key()}')


@settings(deadline=None, max_examples=200)
@given(st.lists(signs, max_size=3))
def test_any_argument_is_refused_or_one_line_of_the_configuration(arguments: list[str]) -> None:
    made = plan(ds4_server_extra_args=arguments)
    if made.refusals or made.server is None:
        return
    lines = content(made, "/opt/ds4/etc/server.conf").split("\n")
    assert [line[4:] for line in lines if line.startswith("arg=")][
        -len(arguments) :
    ] == arguments or not arguments
    assert all(line[:1] == "#" or "=" in line for line in lines if line)


@settings(deadline=None, max_examples=200)
@given(anything)
def test_any_address_or_inventory_name_is_refused_or_one_word(text: str) -> None:
    common, away = {"ds4_tunnel_port": 8101}, Connection(address=text, user="admin")
    for host in (Host("tyo-01", "tokyo", common, connection=away), Host(text, "tokyo", common)):
        try:
            spec = spec_of(host)
        except OperatorError:
            continue
        for word in (spec.name, spec.address):
            assert word.isprintable() and not word.startswith("-") and not set(" */,@!") & set(word)
    if not names.mistakes({}, host=text) and text:
        line = f"{text} {key()}"
        assert line.split(" ")[0] == text and not set("*?!,|@#") & set(text)


@settings(deadline=None, max_examples=100)
@given(anything)
def test_any_time_zone_is_refused_or_below_the_folder_of_zones(zone: str) -> None:
    if zone and not names.mistakes({"ds4_timezone": zone}):
        assert ".." not in zone and not zone.startswith(("/", "-"))


class TestTheToolsThemselves:
    """The same by the programs that read it, where this machine has them."""

    @pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
    def test_sshd_lets_the_operator_in_as_before(self, tmp_path: Path) -> None:
        made = plan(ds4_tunnel_user="_ds4-tunnel_1", ds4_tunnel_keys=[key()])
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
        config = tmp_path / "sshd_config"
        config.write_text(f"HostKey {tmp_path}/host\nUsePAM no\n" + content(made, SSHD_DROP_IN))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

        def command_of(user: str) -> str:
            words = [str(SSHD), "-T", "-f", str(config), "-C", f"user={user},host=x,addr=192.0.2.1"]
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            return next(line for line in said.splitlines() if line.startswith("forcecommand"))

        assert command_of("admin") == "forcecommand none"
        assert command_of("_ds4-tunnel_1") == "forcecommand /opt/ds4/libexec/ds4-tunnel-wait"

    @pytest.mark.skipif(not shutil.which("visudo", path="/usr/sbin:/usr/bin"), reason="no visudo here")
    @settings(deadline=None, max_examples=25)
    @given(st.from_regex(names.LOGIN.pattern, fullmatch=True))
    def test_visudo_takes_every_login(self, user: str) -> None:
        file = bootstrap.sudoers_text(user)
        visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin")
        done = subprocess.run(
            [str(visudo), "-cf", "-"], input=file, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (user, done.stderr)

    def test_a_property_list_is_one(self) -> None:
        text = content(plan(ds4_service_user="llm"), "/Library/LaunchDaemons/com.ds4fleet.logs.plist")
        assert xml.fromstring(text).tag == "plist"


def test_who_has_access_is_checked_where_the_file_was_edited_by_hand() -> None:
    with pytest.raises(OperatorError, match="valid user name"):
        users.keys_for("tyo-01", "tokyo", {'a\nssh-ed25519 x"': {"keys": [key()], "to": ["all"]}})
