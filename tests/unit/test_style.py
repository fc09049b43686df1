"""Rules of the house that a linter does not know."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

MODULES = sorted(Path("plugins/modules").glob("*.py"))
ON_THE_MAC = [*MODULES, *sorted(Path("plugins/module_utils").rglob("*.py"))]
#: What the standard library has had only since a later Python than a Mac's 3.9.
NEWER = {"tomllib", "compression", "annotationlib"}
TASKS = [*sorted(Path("roles/ds4/tasks").rglob("*.yml")), *sorted(Path("playbooks").glob("*.yml"))]
#: A module is a pure core with a thin shell; past this it does too much.
LONGEST_MODULE = 320
#: Past these a file holds two things, and a function does them. Complexity is ruff's matter.
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
PRODUCT = sorted(
    [
        Path("tasks.py"),
        *Path("ds4fleet").rglob("*.py"),
        *Path("plugins").rglob("*.py"),
        *Path("maclab").rglob("*.py"),
    ]
)
#: An entry in a table of contents is named after its chapter.
CONTENTS = {"ansible.builtin.include_tasks", "ansible.builtin.import_tasks", "ansible.builtin.meta"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_stays_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", sorted(Path("maclab").rglob("*.[ch]")), ids=str)
def test_a_file_of_the_stand_in_engine_stays_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name for node in functions if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION}
    assert long == set()


@pytest.mark.parametrize("path", ON_THE_MAC, ids=lambda path: path.stem)
def test_what_runs_on_a_mac_needs_nothing_but_its_python(path: Path) -> None:
    # Its grammar too: newer syntax does not parse.
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [
        str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
    ]
    assert {name.split(".")[0] for name in named} - {"ansible"} <= sys.stdlib_module_names - NEWER


@pytest.mark.parametrize("path", ON_THE_MAC, ids=lambda path: path.stem)
def test_what_runs_on_a_mac_asks_nothing_that_only_linux_has(path: Path) -> None:
    if path.name == "ports.py":
        return  # It says who holds a port of the controller too, and looks whether there is a /proc.
    for word in ("/proc/", "os.sched_", "signalfd", "epoll", "inotify", "O_TMPFILE", "posix_fallocate"):
        assert word not in path.read_text(), word


#: What Linux has and macOS has not, of the modules that a controller could meet it in.
ONLY_LINUX = {
    "os": "unshare setns sched_getaffinity sched_setaffinity eventfd memfd_create pidfd_open O_PATH",
    "select": "epoll",
    "signal": "SIGPWR SIGSTKFLT SIGRTMIN",
    "socket": "AF_NETLINK AF_PACKET SO_BINDTODEVICE SO_PEERCRED SOCK_NONBLOCK SOCK_CLOEXEC TCP_QUICKACK",
}
CONTROLLER = [
    "tasks",
    *(
        str(path.with_suffix("")).replace("/", ".")
        for path in sorted(Path("ds4fleet").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ),
]


def test_a_controller_can_be_a_mac() -> None:
    script = f"""
import importlib
for name, words in {ONLY_LINUX!r}.items():
    module = importlib.import_module(name)
    for word in words.split():
        if hasattr(module, word):
            delattr(module, word)
for name in {CONTROLLER!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", TASKS, ids=str)
class TestTasks:
    def test_know_no_lab_and_swallow_no_error(self, path: Path) -> None:
        text = path.read_text()
        for word in ("ignore_errors", "ds4_fleet_layer", "ansible.builtin.shell", "ansible.builtin.pause"):
            assert word not in text, word

    def test_use_no_injected_facts(self, path: Path) -> None:
        for word in ("ansible_distribution", "ansible_system", "ansible_memtotal_mb", "ansible_architecture"):
            assert word not in path.read_text(), word

    def test_each_has_a_sentence_for_a_name(self, path: Path) -> None:
        for task in _tasks(yaml.safe_load(path.read_text()) or []):
            words = str(task.get("name", "")).split()
            assert len(words) >= (1 if CONTENTS & set(task) else 2), task


def _tasks(items: list[dict[str, object]]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for item in items:
        found.append(item)
        for key in ("tasks", "block", "rescue", "always", "pre_tasks", "post_tasks", "handlers"):
            inner = item.get(key)
            if isinstance(inner, list):
                found += _tasks(inner)
    return found


def test_main_is_a_table_of_contents() -> None:
    for task in yaml.safe_load(Path("roles/ds4/tasks/main.yml").read_text()):
        assert CONTENTS & set(task), task


def test_the_lab_asks_for_packages_that_setup_installs() -> None:
    from maclab.preflight import TOOLS

    setup = Path("scripts/setup").read_text()
    for tool in TOOLS:
        assert f"\n{tool.package}|" in setup, tool.package
