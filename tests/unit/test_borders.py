"""The borders are the only ways in and out: what others say is read within limits, and shown escaped.

Found by reading the source; what a border lets through is the matter of its own tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ON_THE_MAC = [
    path for name in ("modules", "module_utils") for path in sorted(Path("plugins", name).rglob("*.py"))
]
#: The controller runs the tunnel's part of it.
SHARED = [path for path in ON_THE_MAC if path.is_relative_to("plugins/module_utils/ds4agent/tunnel")]
CONTROLLER = [
    *SHARED,
    *(
        path
        for path in sorted(
            [*Path("ds4fleet").rglob("*.py"), *Path("plugins").rglob("*.py"), Path("tasks.py")]
        )
        if path not in ON_THE_MAC
    ),
]
BOTH = sorted({*CONTROLLER, *ON_THE_MAC})

#: Who may write to a stream by itself, and what: (file, function).
WRITERS = {
    ("ds4fleet/cli/command_line.py", "check"): "how a verb is written",
    ("ds4fleet/blocks.py", "write"): "the border",
    ("ds4fleet/inventory/resolve.py", "main"): "what is wrong with an inventory, to fab",
    ("ds4fleet/console.py", "print_json_line"): "the border for JSON",
    ("ds4fleet/tunnel/daemon.py", "serve"): "a line that plain has seen, into the log of the background",
    (
        "plugins/module_utils/ds4agent/tunnel/jump.py",
        "_log",
    ): "a line that plain has seen, into launchd's log",
    ("plugins/module_utils/ds4agent/tunnel/jump.py", "main"): "its own configuration, into launchd's log",
    ("ds4fleet/weights/push.py", "tell"): "a line that plain has seen, into the log of what is pushed",
}
#: Who may let a program use the terminal itself, and why that is no way around the border: (file, function).
INHERITING = {
    ("ds4fleet/cli/container.py", "run"): "our own commands, in a container",
    ("ds4fleet/cli/lab.py", "ssh"): "a login to a simulated Mac",
    ("ds4fleet/cli/demo.py", "run"): "our own commands",
    ("ds4fleet/cli/demo.py", "tunnel"): "errors of fab tunnel",
    ("ds4fleet/remote/playbook.py", "running"): "ansible-playbook, whose display is guarded",
}
#: Who may parse JSON without limits, as this machine's or root's own files and processes wrote it.
OWN_JSON = {
    "ds4fleet/cli/twin.py": "facts that this machine has kept",
    "ds4fleet/cli/demo.py": "the record of our own run",
    "ds4fleet/inventory/fleet.py": "our own program within Ansible",
    "ds4fleet/held_file.py": "locks of this user",
    "ds4fleet/journal.py": "lines that this user has kept",
    "ds4fleet/fleetview/field.py": "a file that a developer names",
    "ds4fleet/pending.py": "what this machine has yet to do",
    "ds4fleet/remote/playbook.py": "a count of Macs by our own callback",
    "ds4fleet/sizing/speed.py": "data of the package",
    "ds4fleet/agents/jsonc.py": "configuration files of the operator",
    "ds4fleet/tunnel/persist.py": "jobs of this user",
    "ds4fleet/tunnel/daemon.py": "the job, and the control socket of this user",
    "ds4fleet/tunnel/home.py": "records and control sockets of this user",
    "plugins/module_utils/ds4agent/tunnel/jump.py": "its own configuration",
    "ds4fleet/upgrade/play.py": "the record of our own run",
    "ds4fleet/upgrade/journal.py": "journals of the controller",
    "ds4fleet/upgrade/host_state.py": "facts that the playbook has just written",
    "ds4fleet/weights/push.py": "the order on standard input",
    "plugins/callback/ds4_banner.py": "a copy of what is in memory",
    "plugins/action/ds4_plan.py": "a copy of what is in memory",
    "plugins/module_utils/ds4agent/watchdog/memory.py": "its own state",
    "plugins/modules/ds4_info.py": "root's own files",
    "plugins/module_utils/ds4agent/weights/transfer.py": "root's own files",
    "plugins/module_utils/ds4agent/weights/chunks.py": "root's own journal",
    "plugins/module_utils/ds4agent/weights/fetch.py": "root's own order",
    "plugins/module_utils/ds4agent/border/bounded_json.py": "the border",
    "plugins/module_utils/ds4agent/observe/read_probes.py": "a script of ours that asks Metal",
    "plugins/module_utils/ds4agent/engine/release.py": "root's own marker",
    "plugins/module_utils/ds4agent/weights/seed.py": "root's own order",
    "plugins/module_utils/ds4agent/switch/state.py": "root's own files",
}


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """(innermost function around it or "", dotted name of what is called, the call) of a file."""

    def walk(node: ast.AST, within: str) -> Iterator[tuple[str, str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else within
            if isinstance(child, ast.Call):
                yield inner, ast.unparse(child.func), child
            yield from walk(child, inner)

    return walk(ast.parse(path.read_text()), "")


@pytest.mark.parametrize("path", CONTROLLER, ids=str)
class TestWhatIsShown:
    def test_nothing_writes_to_a_stream_but_the_border(self, path: Path) -> None:
        streams = {
            f"sys.{stream}.{verb}" for stream in ("stdout", "stderr") for verb in ("write", "writelines")
        }
        streams |= {f"sys.{stream}.buffer.write" for stream in ("stdout", "stderr")} | {"print"}
        writers = {within for within, name, _call in calls(path) if name in streams}
        assert {within for within in writers if (str(path), within) not in WRITERS} == set()

    def test_there_is_one_kind_of_console_and_of_table(self, path: Path) -> None:
        if path == Path("ds4fleet/console.py"):
            return
        made = {name.rpartition(".")[2] for _within, name, _call in calls(path)}
        assert (
            made & {"Console", "Table", "from_markup", "from_ansi", "Panel", "Prompt", "render_markup"}
            == set()
        )
        assert not any(one.arg in ("markup", "emoji") for *_, call in calls(path) for one in call.keywords)

    def test_colours_stand_beside_a_text_and_not_in_it(self, path: Path) -> None:
        texts = [one.value for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Constant)]
        assert [text for text in texts if isinstance(text, str) and ("[/]" in text or "[/bold" in text)] == []

    def test_no_program_gets_the_terminal_but_those_that_are_guarded(self, path: Path) -> None:
        inheriting = set()
        for within, name, call in calls(path):
            given = {one.arg for one in call.keywords}
            if name in ("os.system", "subprocess.call", "subprocess.check_call", "os.execvp", "pty.spawn"):
                inheriting.add(within)
            if name in ("subprocess.run", "subprocess.Popen", "asyncio.create_subprocess_exec"):
                taken = "capture_output" in given or {"stdout", "stderr"} <= given
                if not taken and (str(path), within) not in INHERITING:
                    inheriting.add(within)
        assert inheriting == set()


@pytest.mark.parametrize("path", BOTH, ids=str)
class TestWhatIsRead:
    def test_json_of_others_is_parsed_within_limits(self, path: Path) -> None:
        parsers = {"json.load", "json.loads", "json_module.loads", "json_module.load", "encoding.loads"}
        if any(name in parsers for _within, name, _call in calls(path)):
            assert str(path) in OWN_JSON

    def test_http_is_read_within_limits(self, path: Path) -> None:
        if path.name == "bounded_http.py":
            return
        readers = {"HTTPConnection", "HTTPSConnection", "urlopen", "urlretrieve", "build_opener"}
        assert {name.rpartition(".")[2] for _within, name, _call in calls(path)} & readers == set()


def test_the_lists_name_nobody_who_is_gone() -> None:
    named = {path for path, _function in (*WRITERS, *INHERITING)} | set(OWN_JSON)
    assert {name for name in named if not Path(name).exists()} == set()
    for path, function in (*WRITERS, *INHERITING):
        assert any(within == function for within, _name, _call in calls(Path(path))), (path, function)
    for path in OWN_JSON:
        assert any(
            name.rpartition(".")[2] in ("load", "loads") for _within, name, _call in calls(Path(path))
        ), path
