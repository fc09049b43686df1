"""`fab init`: a fleet's repository from a table or by question; mistakes are said before it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ds4fleet.cli.init import macs as new_macs
from ds4fleet.cli.init import write
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.layout import CHECKOUT, fleet_folder

FAB = Path(sys.executable).parent / "fab"
HEAD = "name,region,address,mac,user,port,timezone,class\n"
MACS = HEAD + (
    "par-01,paris,192.0.2.10,Mac Studio M4 Max 128 GB 2 TB,ops,2222,Europe/Paris,\n"
    "par-02,paris,192.0.2.11,Mac Studio M3 Ultra 256 GB 2 TB,,,,big\n"
    "\n"
    "osl-01,oslo,2001:db8::7,mac mini M4 Pro 64 GB,,,,\n"
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "macs.csv"
    path.write_text(MACS)
    return path


@pytest.fixture
def fleet(table: Path, tmp_path: Path) -> Path:
    assert write.run(tmp_path / "fleet", table=str(table)) == 0
    return tmp_path / "fleet"


def fab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As typed there; Ansible's variables of this process are not those of a person."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    own = {**environment, "DS4_FLEET_STATE": str(folder / "state"), "HOME": str(folder)}
    return subprocess.run(
        [FAB, *words],
        cwd=folder,
        env=own,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


class TestARepository:
    def test_has_each_mac_in_its_region_and_class(self, fleet: Path) -> None:
        tree = yaml.safe_load((fleet / "inventory/hosts.yml").read_text())["all"]["children"]
        paris = tree["regions"]["children"]["paris"]["hosts"]
        assert paris["par-01"] == {
            "ansible_host": "192.0.2.10",
            "ansible_port": 2222,
            "ansible_user": "ops",
            "ds4_tunnel_port": 8101,
        }
        assert tree["regions"]["children"]["oslo"]["hosts"]["osl-01"]["ds4_tunnel_port"] == 8201
        assert {name: [*one["hosts"]] for name, one in tree["classes"]["children"].items()} == {
            "mac_studio_128": ["par-01"],
            "big": ["par-02"],
            "mac_mini_64": ["osl-01"],
        }

    @pytest.mark.parametrize(
        ("name", "of_the_checkout"),
        [
            ("ansible.cfg", "ansible.cfg"),
            ("inventory/group_vars/all/connection.yml",) * 2,
            ("inventory/group_vars/all/fleet.yml",) * 2,
            ("inventory/known_hosts.txt",) * 2,
        ],
    )
    def test_begins_with_what_the_checkout_has(self, fleet: Path, name: str, of_the_checkout: str) -> None:
        assert (fleet / name).read_text() == (CHECKOUT / of_the_checkout).read_text()

    def test_is_planned_by_its_own_inventory_from_any_folder_in_it(self, fleet: Path) -> None:
        done = fab(fleet / "inventory", "plan", "--json")
        assert done.returncode == 0, done.stderr
        assert [one["host"] for one in json.loads(done.stdout)] == ["par-01", "par-02", "osl-01"]

    def test_has_the_main_job(self, fleet: Path) -> None:
        program = Path(sys.executable).parent / "ansible-playbook"
        done = subprocess.run(
            [program, "site.yml", "--list-hosts", "-l", "paris"],
            cwd=fleet,
            env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "par-01" in done.stdout and "osl-01" not in done.stdout, done.stderr

    def test_goes_into_a_repository_that_was_just_made_and_into_nothing_else(
        self, table: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "new" / ".git").mkdir(parents=True)
        assert write.run(tmp_path / "new", table=str(table)) == 0
        with pytest.raises(OperatorError, match="is not empty"):
            write.run(tmp_path / "new", table=str(table))
        with pytest.raises(OperatorError, match="is no directory"):
            write.run(table, table=str(table))

    def test_is_only_named_by_a_dry_run(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert write.run(tmp_path / "new", table=str(table), dry_run=True) == 0
        assert "inventory/hosts.yml" in capsys.readouterr().out.replace("\n", "")
        assert not (tmp_path / "new").exists()


class TestATable:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "it has no column name"),
            ("name,region,address\n", "it has no column mac"),
            ("name,region,address,mac,colour\n", "it has a column 'colour'"),
            ("name,name,region,address,mac\n", "a column stands there twice"),
            (HEAD, "it names no Mac"),
            (HEAD + "a,b\n", "line 2: 2 cells where the first line names 8 columns"),
            (MACS + 'x,y,z,"Mac mini', "line 6: "),
            (MACS.replace("par-02", "-oops"), "line 3: name is '-oops'"),
            (MACS.replace("192.0.2.10", "root@192.0.2.10"), "line 2: address is 'root@192.0.2.10'"),
            (MACS.replace("oslo", "os lo"), "line 5: region is 'os lo'"),
            (MACS.replace("oslo", "all"), "line 5: region is 'all'"),
            (MACS.replace("2222", "70000"), "line 2: port is '70000'"),
            (MACS.replace("Europe/Paris", "Europe Paris"), "line 2: timezone is"),
            (MACS.replace("mac mini M4 Pro", "iMac"), "line 5: 'iMac 64 GB' is not a Mac"),
            (MACS.replace("par-02", "par-01"), "par-01 stands there twice"),
            (MACS.replace("par-02", "oslo"), "oslo is a region"),
            (MACS.replace(",big", ",oslo"), "oslo is a region"),
            (MACS.replace(",,,,big", ",,,Asia/Tokyo,big"), "two time zones"),
            (MACS.replace(",big", ",x").replace("64 GB,,,,", "64 GB,,,,x"), "the class x has two kinds"),
            (MACS.replace("par-01", "big"), "big is a Mac and a class"),
        ],
    )
    def test_that_is_wrong_is_refused_with_its_line(
        self, table: Path, tmp_path: Path, text: str, sentence: str
    ) -> None:
        table.write_text(text)
        with pytest.raises(OperatorError) as refused:
            write.run(tmp_path / "new", table=str(table))
        assert sentence in refused.value.sentence and refused.value.exit_code == EXIT_USAGE
        assert [one.name for one in tmp_path.iterdir()] == [table.name]

    @pytest.mark.parametrize(
        "data", [b"\xff\xfe", b"x" * (new_macs.MOST_BYTES + 1)], ids=["bytes", "endless"]
    )
    def test_that_is_no_text_is_refused(self, table: Path, data: bytes) -> None:
        table.write_bytes(data)
        with pytest.raises(OperatorError):
            new_macs.read_table(table)

    def test_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(OperatorError, match="No such file"):
            new_macs.read_table(tmp_path / "none.csv")

    def test_with_kinds_of_one_size_has_a_class_for_each(self) -> None:
        kinds = ("Mac Studio M4 Max 128 GB", "Mac Studio M2 Ultra 128 GB", "Mac Studio M2 Ultra 128 GB 8 TB")
        macs = [
            new_macs.made({"name": f"m{n}", "region": "r", "address": "192.0.2.1", "mac": kind}, "")
            for n, kind in enumerate(kinds)
        ]
        assert list(new_macs.classes_of(macs)) == [
            "mac_studio_m4_max_128",
            "mac_studio_m2_ultra_128_1000",
            "mac_studio_m2_ultra_128_8000",
        ]


class TestQuestions:
    def test_come_again_after_a_mistake(self) -> None:
        answers = iter(
            [
                "to kyo",
                "tokyo, seoul, tokyo",
                "tyo-01 192.0.2.1 a Mac",
                "tyo-01 192.0.2.1 Mac mini M4 24 GB",
                "tyo-01 192.0.2.2 Mac mini M4 24 GB",
                "",
                "sel-01 192.0.2.3 Mac Studio M4 Max 128 GB",
                "",
            ]
        )
        said: list[str] = []
        found = new_macs.by_question(lambda _question: next(answers), said.append)
        assert [(one.name, one.region) for one in found] == [("tyo-01", "tokyo"), ("sel-01", "seoul")]
        mistakes = [one for one in said if "one Mac a line" not in one]
        assert len(mistakes) == 3 and "stands there twice" in mistakes[2]

    def test_are_not_asked_without_a_terminal(self, tmp_path: Path) -> None:
        done = fab(tmp_path, "init", "here")
        assert done.returncode == EXIT_USAGE and "pass --from FILE" in done.stderr
        assert not (tmp_path / "here").exists()


class TestAFolderOfNoFleet:
    def test_is_said(self, tmp_path: Path) -> None:
        done = fab(tmp_path, "status")
        assert done.returncode == EXIT_USAGE and done.stdout == ""
        assert "is in no fleet's folder" in done.stderr.replace("\n", " ") and "fab init DIR" in done.stderr

    def test_has_the_verbs_that_need_none(self, tmp_path: Path) -> None:
        assert "init" in fab(tmp_path, "--help").stdout
        assert fab(tmp_path, "plan", "--what-if", "Mac Studio 128 GB").returncode == 0

    def test_is_told_from_one_of_a_fleet(self, fleet: Path, tmp_path: Path) -> None:
        assert fleet_folder(fleet / "inventory") == fleet and fleet_folder(tmp_path) is None
