"""The collection ds4.fleet as an operator has it: built, installed in an empty place, its packages beside."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import ds4fleet
from ds4fleet.errors import EXIT_UNREACHABLE
from ds4fleet.layout import CHECKOUT

Run = Callable[..., subprocess.CompletedProcess[str]]

#: What the archive holds besides what ansible-galaxy writes into it.
TOP = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "docs",
    "ds4fleet",
    "meta",
    "playbooks",
    "plugins",
    "pyproject.toml",
    "requirements.txt",
    "roles",
}
MADE_BY_GALAXY = {"MANIFEST.json", "FILES.json"}
#: What an operator may have in a checkout, and nobody may get with the collection.
PRIVATE = (
    "inventory/group_vars/all/access.yml",
    "facts/tyo-01.json",
    "reports/run.json",
    "rollouts/run.json",
    "playbooks/group_vars/all.yml",
    "playbooks/host_vars/tyo-01.yml",
    "roles/ds4/.vault",
    "rental.password",
    "passwords",
    "id_ed25519",
    "macs.ini",
    "my-inventory/hosts.yml",
    "prod/hosts.yml",
    ".env",
    "ds4fleet/__pycache__/errors.cpython-311.pyc",
    "ds4_fleet.egg-info/PKG-INFO",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive, the installed collection and, in `packages`, ds4fleet and ds4agent."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "scripts/collection", str(folder)]
    subprocess.run(command, check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    packages = folder / "packages"
    for package, where in packages_of(folder / "ansible_collections" / "ds4" / "fleet").items():
        shutil.copytree(where, packages / package)
    return folder


def packages_of(collection: Path) -> dict[str, Path]:
    """The packages that pip takes from the collection's folder, as its pyproject.toml says."""
    found = tomllib.loads((collection / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"][
        "find"
    ]
    names = [name for name in found["include"] if "." not in name]
    return {name: where / name for where in map(collection.joinpath, found["where"]) for name in names
            if (where / name / "__init__.py").is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """run(program, *arguments): one of Ansible's programs in an empty folder, with nothing of ours but what
    is installed: the tests' own environment knows the checkout by a .pth file, which -S leaves out."""
    work = place / "work"
    work.mkdir()
    config = place / "ansible.cfg"
    config.write_text(f"[defaults]\ncollections_path = {place}\ninventory = {CHECKOUT}/inventory/hosts.yml\n")
    site = Path(yaml.__file__).parents[1]
    start = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment |= {
            "PYTHONPATH": f"{place / 'packages'}:{bare_site(place, site)}",
            "ANSIBLE_CONFIG": str(config),
            "HOME": str(work),
        }
        command = [sys.executable, "-S", "-c", start, str(Path(sys.executable).parent / program), *arguments]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    return run


def bare_site(place: Path, site: Path) -> Path:
    """The tests' site-packages without the checkout's link and .pth, as links."""
    folder = place / "site"
    if not folder.exists():
        folder.mkdir()
        for entry in site.iterdir():
            if entry.name != "ansible_collections" and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def documented(run: Run, kind: str) -> set[str]:
    """Names in our collection that ansible-doc lists, each with a short description."""
    done = run("ansible-doc", "-t", kind, "--list", "--json", "ds4.fleet")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert all(listed.values())
    return {name.removeprefix("ds4.fleet.") for name in listed}


def stems(kind: str) -> set[str]:
    return {path.stem for path in (CHECKOUT / "plugins" / kind).glob("*.py")}


def members(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return {member.name for member in opened if member.isfile()}


class TestArchive:
    def test_holds_what_is_needed_and_nothing_else(self, place: Path) -> None:
        (archive,) = place.glob("ds4-fleet-*.tar.gz")
        names = members(archive) - MADE_BY_GALAXY
        assert {name.partition("/")[0] for name in names} == TOP
        tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=CHECKOUT,
                                 check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
        assert names <= set(tracked)
        left_out = {name for name in set(tracked) - names if name.partition("/")[0] in TOP}
        assert left_out == {"docs/conf.py"}

    def test_built_in_a_checkout_leaves_out_what_is_the_operators(self, place: Path, tmp_path: Path) -> None:
        checkout = tmp_path / "checkout"
        shutil.copytree(place / "ansible_collections" / "ds4" / "fleet", checkout)
        shutil.copy2(CHECKOUT / "galaxy.yml", checkout)
        for name in MADE_BY_GALAXY:
            (checkout / name).unlink()
        for name in PRIVATE:
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_text("private")
        command = [Path(sys.executable).parent / "ansible-galaxy", "collection", "build"]
        subprocess.run(command, check=True, cwd=checkout, stdout=subprocess.DEVNULL)
        (archive,) = checkout.glob("ds4-fleet-*.tar.gz")
        names = members(archive)
        assert names & set(PRIVATE) == set()
        assert {name.partition("/")[0] for name in names} == TOP | MADE_BY_GALAXY

    def test_has_the_version_of_the_packages(self) -> None:
        galaxy = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        assert galaxy["version"] == project["version"] == ds4fleet.__version__

    def test_has_a_dated_entry_of_its_version_first_in_the_changelog(self) -> None:
        entries = re.findall(r"^## (.*)$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
        assert re.fullmatch(rf"{re.escape(ds4fleet.__version__)} - \d{{4}}-\d{{2}}-\d{{2}}", entries[0])

    def test_is_installed_in_the_docs_by_its_version(self) -> None:
        assert f"ds4-fleet-{ds4fleet.__version__}.tar.gz" in (CHECKOUT / "docs" / "install.md").read_text()


class TestInstalled:
    @pytest.mark.parametrize("kind", ["callback", "lookup"])
    def test_every_plugin_is_documented(self, run: Run, kind: str) -> None:
        assert documented(run, kind) == stems(kind)

    def test_every_module_and_action_is_documented(self, run: Run) -> None:
        assert documented(run, "module") >= stems("modules") | stems("action")

    def test_every_playbook_is_found_by_its_name(self, run: Run) -> None:
        names = [f"ds4.fleet.{path.stem}" for path in sorted((CHECKOUT / "playbooks").glob("*.yml"))]
        done = run("ansible-playbook", "--syntax-check", *names)
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.count("playbook: ") == len(names)

    def test_runs_the_role_and_the_library_of_the_collection(self, run: Run, place: Path) -> None:
        """As far as it goes without a Mac: the first action's own sentence about one that does not answer."""
        nowhere = json.dumps({"ansible_host": "127.0.0.1", "ansible_port": 9})
        done = run("ansible-playbook", "ds4.fleet.site", "-l", "tyo-01", "-e", nowhere)
        assert done.returncode == EXIT_UNREACHABLE, done.stderr
        assert "tyo-01 does not answer: " in done.stdout
        assert f"Origin: {place}/ansible_collections/ds4/fleet/roles/ds4/tasks/" in done.stdout

    def test_a_run_that_meets_no_mac_fails_and_says_where_to_look(self, run: Run) -> None:
        done = run("ansible-playbook", "ds4.fleet.site", "-i", "localhost,")
        assert done.returncode == 1
        assert "no host of the inventory (-i) matches" in done.stderr

    def test_the_library_finds_the_role_there_and_leaves_what_it_makes_with_the_operator(
        self, run: Run, place: Path
    ) -> None:
        script = place / "where.py"
        script.write_text("from ds4fleet import layout; print(layout.ROLE, layout.CHECKOUT, sep='\\n')")
        done = subprocess.run(
            [sys.executable, "-S", str(script)],
            cwd=place / "work",
            env={
                "PYTHONPATH": f"{place / 'packages'}:{place / 'site'}",
                "ANSIBLE_COLLECTIONS_PATH": str(place),
                "HOME": str(place / "work"),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [
            str(place / "ansible_collections/ds4/fleet/roles/ds4"),
            str(place / "work"),
        ]


class TestIgnoredFindings:
    """What ansible-test sanity ignores (tests/sanity) is the same for every plugin of a kind."""

    @pytest.mark.parametrize(
        "path", sorted((CHECKOUT / "tests/sanity").glob("ignore-*.txt")), ids=lambda p: p.name
    )
    def test_covers_every_plugin_and_gives_its_reason(self, path: Path) -> None:
        lines = [line.partition(" # ") for line in path.read_text().splitlines()]
        assert all(reason for _entry, _sign, reason in lines)
        entries = [tuple(entry.split()) for entry, _sign, _reason in lines]
        licences = {file for file, check in entries if check == "validate-modules:missing-gplv3-license"}
        assert licences == files("modules", "lookup", "callback")
        for version in {check for _file, check in entries if check.startswith("import-")}:
            ignored = {file for file, check in entries if check == version}
            assert ignored == {name for name in files("action", "lookup", "callback") if imports_ours(name)}


def files(*kinds: str) -> set[str]:
    return {f"plugins/{kind}/{stem}.py" for kind in kinds for stem in stems(kind)}


def imports_ours(name: str) -> bool:
    nodes = ast.walk(ast.parse((CHECKOUT / name).read_text()))
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return any(
        module.partition(".")[0] in ("ds4fleet", "ds4agent", "ansible_collections") for module in modules
    )
