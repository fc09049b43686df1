"""`scripts/fresh`: where a release comes from, what of this machine is handed in, and what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ds4fleet.errors import EXIT_MISSING, EXIT_USAGE, OperatorError
from tests.support.fresh import __main__ as cli
from tests.support.fresh import machine, system
from tests.support.tunnel_ends import wait_until

MIRROR = "http://mirror.invalid/debian/"
TARGETS = f"""\
{MIRROR} bookworm
{MIRROR} bookworm-updates
{MIRROR} bookworm-backports
http://mirror.invalid/security/ bookworm-security
https://tools.invalid/ nodistro
"""


class TestSources:
    @pytest.fixture
    def mirror(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A mirror that has trixie and its updates."""
        for suite in ("trixie", "trixie-updates"):
            (tmp_path / "dists" / suite).mkdir(parents=True)
            (tmp_path / "dists" / suite / "Release").write_text("")
        return tmp_path

    def test_another_release_comes_from_where_this_ones_packages_come_from(self) -> None:
        assert machine.renamed(TARGETS, "bookworm", "trixie") == [
            f"{MIRROR} trixie",
            f"{MIRROR} trixie-updates",
            "http://mirror.invalid/security/ trixie-security",
        ]

    def test_a_machine_whose_apt_does_not_name_its_own_release_names_no_mirror(self) -> None:
        assert machine.renamed("https://tools.invalid/ nodistro\n", "bookworm", "trixie") == []
        assert machine.renamed("cdrom:[Debian]/ bookworm\n", "bookworm", "trixie") == []

    def test_what_a_release_does_not_have_is_left_out(
        self, mirror: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = [f"file://{mirror} trixie{kind}" for kind in ("", "-updates", "-security")]
        monkeypatch.setattr(machine, "_configured", lambda *_: named)
        assert machine.sources("trixie", {}) == named[:2]

    def test_a_mirror_may_be_named(self, mirror: Path) -> None:
        named = {machine.MIRROR_VARIABLE: f"file://{mirror}"}
        assert machine.sources("trixie", named) == [f"file://{mirror} trixie"]

    @pytest.mark.parametrize(
        ("release", "named", "code", "says"),
        [
            ("jessie", {}, EXIT_USAGE, "'jessie' is not a release to try: bookworm, "),
            ("noble", {}, machine.EXIT_NOT_HERE, "names no mirror of Ubuntu: set DS4_FRESH_MIRROR"),
            ("noble", {"DS4_FRESH_MIRROR": "http://127.0.0.1:9"}, machine.EXIT_NOT_HERE, "does not answer"),
            ("noble", {"DS4_FRESH_MIRROR": "what?"}, machine.EXIT_NOT_HERE, "what? does not give us noble"),
        ],
    )
    def test_what_cannot_be_had_is_one_sentence_and_a_status_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch, release: str, named: dict[str, str], code: int, says: str
    ) -> None:
        monkeypatch.setattr(machine, "this_one", lambda: ("debian", "bookworm"))
        with pytest.raises(OperatorError) as refused:
            machine.sources(release, named)
        assert refused.value.exit_code == code
        assert says in refused.value.sentence and "\n" not in refused.value.sentence

    def test_the_machine_says_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "release").write_text('ID=debian\nVERSION_CODENAME="trixie"\n# a note\n')
        assert machine.this_one(tmp_path / "release") == ("debian", "trixie")
        assert machine.this_one(tmp_path / "none") == ("", "")

    @pytest.mark.parametrize(
        ("own", "other"), [("bookworm", "trixie"), ("trixie", "bookworm"), ("noble", "trixie")]
    )
    def test_the_checks_try_a_debian_that_the_machine_is_not(self, own: str, other: str) -> None:
        assert machine.other_release(own) == other


class TestHandedIn:
    def test_the_way_to_the_outside_is_and_the_rest_of_the_environment_is_not(self) -> None:
        way = {"HTTPS_PROXY": "p", "no_proxy": "n", "PIP_INDEX_URL": "i", "SSL_CERT_FILE": "c"}
        rest = {"PATH": "/x", "LANG": "C", "DS4_LAB": "l", "VIRTUAL_ENV": "v", "MY_PIP_X": "m", "HOME": "h"}
        assert machine.environment_of({**way, **rest}) == way

    def test_so_is_what_pips_configuration_names(self, tmp_path: Path) -> None:
        wheels, index, ca = tmp_path / "wheels", tmp_path / "index" / "simple", tmp_path / "ca.pem"
        for folder in (wheels, index):
            folder.mkdir(parents=True)
        ca.write_text("")
        (tmp_path / "pip.conf").write_text(
            f"[global]\ncert = {ca}\nfind-links = {wheels}\n  /not/there\n"
            f"[install]\nextra-index-url = https://i.invalid/simple file://{index}\n"
        )
        values = machine.pip_values([tmp_path / "pip.conf"])
        assert machine.paths_in(values) == {wheels, index.parent, ca}

    def test_a_configuration_that_names_the_root_folder_hands_in_nothing(self) -> None:
        assert machine.paths_in(["/", "file:///", "relative/path", ""]) == set()

    def test_certificates_that_somebody_added_are_told_from_the_packages(self, tmp_path: Path) -> None:
        one, two, three = (
            f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"
            for body in ("MII1", "MII2", "MII3")
        )
        (tmp_path / "mozilla").mkdir()
        (tmp_path / "mozilla" / "two.crt").write_text(f"{two}\n")
        assert machine.local_certificates(f"{one}\n{two}\n{three}\n", tmp_path) == [one, three]


class TestCommandLine:
    @pytest.mark.parametrize("words", [[], ["--help"]])
    def test_without_a_release_it_says_how(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(words) == EXIT_USAGE
        assert capsys.readouterr().err.startswith("fresh: say which release: scripts/fresh ")

    @pytest.mark.parametrize("size", ["1", "lots", "-3", "99999"])
    def test_a_size_without_bounds_is_refused(self, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
        monkeypatch.setenv("DS4_FRESH_GB", size)
        assert cli.main(["trixie"]) == EXIT_USAGE

    def test_without_root_it_says_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert cli.main(["trixie"]) == EXIT_MISSING
        assert capsys.readouterr().err.strip().endswith("run the same command with sudo")

    def test_what_is_missing_is_named_by_its_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(system, "_which", lambda name: None if name.startswith("mkfs") else name)
        with pytest.raises(OperatorError, match="apt-get install e2fsprogs$"):
            system.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces")
class TestNamespaces:
    def test_the_status_of_what_runs_inside_comes_out(self) -> None:
        assert system.in_namespaces(lambda: 7) == 7

    def test_inside_it_is_the_first_process_and_its_mounts_are_its_own(self, tmp_path: Path) -> None:
        def inside() -> int:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
            (tmp_path / "seen").write_text("")
            return os.getpid()

        assert system.in_namespaces(inside) == 1
        assert list(tmp_path.iterdir()) == []

    def test_one_that_cannot_be_had_is_a_sentence(self, capfd: pytest.CaptureFixture[str]) -> None:
        def inside() -> int:
            raise OperatorError("no such thing", exit_code=9)

        assert system.in_namespaces(inside) == 9
        assert capfd.readouterr().out == "fresh: no such thing\n"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_nothing_outlives_the_one_who_started_it(self, tmp_path: Path, number: int) -> None:
        up = tmp_path / "up"
        script = (
            "import os, signal, subprocess, sys\n"
            "from pathlib import Path\n"
            "from tests.support.fresh import system\n"
            # A shell that starts the tests in the background has them ignore it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def inside():\n"
            f"    Path({str(up)!r}).write_text('')\n"
            f"    subprocess.Popen(['tail', '-f', {str(up)!r}], start_new_session=True)\n"
            "    os.wait()\n"
            "    return 0\n"
            "sys.exit(system.in_namespaces(inside))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        wait_until(lambda: bool(processes_with(up)), 30, "the process inside")
        process.send_signal(number)
        process.wait(30)
        wait_until(lambda: not processes_with(up), 30, "its end")


def processes_with(path: Path) -> list[str]:
    """Process ids of the `tail` of that file."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_bytes() == b"\0".join((b"tail", b"-f", bytes(path), b"")):
                found.append(command.parent.name)
    return found
