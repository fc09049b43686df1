"""Documentation that machines can check: module docs render, links lead somewhere, commands exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.inventory import settings
from ds4fleet.inventory.fleet import ansible_command
from ds4fleet.plan.settings import ROLES
from ds4fleet.plan.types import STAGES

MODULES = sorted(Path("plugins/modules").glob("ds4_*.py"))
PAGES = [Path("README.md"), Path("CHANGELOG.md"), *sorted(Path("docs").rglob("*.md"))]
PAGES += sorted(Path("bench").rglob("*.md"))

#: Files that a page may name although a fresh checkout has none: `fab lab up` and `fab access` write them.
WRITTEN_BY_COMMANDS = {"inventory/lab.yml", "inventory/group_vars/all/access.yml"}
#: And those that the reader is told to write.
WRITTEN_BY_HAND = {"inventory/group_vars/all/me.yml"}
FOLDERS = "roles|playbooks|docs|ds4fleet|inventory|bench|tests|plugins|scripts|molecule"

#: Targets of the engine's own Makefile that a page may name.
UPSTREAMS_TARGETS = {"cpu"}


def constants(path: Path) -> dict[str, str]:
    """The module-level strings of a Python file, without importing it."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = str(node.value.value)
    return found


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    names = [f"ds4.fleet.{path.stem}" for path in MODULES]
    command = [*ansible_command("ansible-doc"), "-t", "module", "--json", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded: dict[str, Any] = json.loads(done.stdout)
    return {name.removeprefix("ds4.fleet."): one for name, one in loaded.items()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
class TestModule:
    def test_renders_in_ansible_doc(self, path: Path, rendered: dict[str, Any]) -> None:
        doc = rendered[path.stem]["doc"]
        assert doc["short_description"]
        assert doc["description"]
        for option in (doc.get("options") or {}).values():
            assert option["description"]

    def test_documents_what_the_code_takes(self, path: Path, rendered: dict[str, Any]) -> None:
        documented = set(rendered[path.stem]["doc"].get("options") or {})
        assert documented == (arguments_of_action(path) if is_an_actions(path) else arguments(path))

    def test_says_how_it_behaves_in_check_and_diff_mode(self, path: Path, rendered: dict[str, Any]) -> None:
        attributes = rendered[path.stem]["doc"].get("attributes") or {}
        assert {"check_mode", "diff_mode"} <= set(attributes)
        assert ("action" in attributes) == is_an_actions(path)

    def test_has_examples_and_return_values(self, path: Path) -> None:
        texts = constants(path)
        assert yaml.safe_load(texts["EXAMPLES"])
        assert yaml.safe_load(texts["RETURN"])


def is_an_actions(path: Path) -> bool:
    """Whether it only documents the action of its name, which runs no module on the Mac."""
    return "AnsibleModule" not in path.read_text()


def arguments_of_action(path: Path) -> set[str]:
    """The names that the action beside `path` reads from the arguments of its task."""
    found = set()
    for node in ast.walk(ast.parse((Path("plugins/action") / path.name).read_text())):
        if isinstance(node, ast.Subscript):
            where, name = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            where, name = node.func.value, node.args[0]
        else:
            continue
        if ast.unparse(where) in ("args", "self._task.args") and isinstance(name, ast.Constant):
            found.add(str(name.value))
    return found


def test_every_action_is_documented() -> None:
    assert {path.name for path in Path("plugins/action").glob("*.py")} <= {path.name for path in MODULES}


def arguments(path: Path) -> set[str]:
    """The names in the `argument_spec` that the module hands to AnsibleModule."""
    tree = ast.parse(path.read_text())
    specs = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("AnsibleModule"):
            values = [word.value for word in call.keywords if word.arg == "argument_spec"] or call.args[:1]
            spec = values[0]
            if isinstance(spec, ast.Name):
                spec = specs[spec.id]
            if isinstance(spec, ast.Dict):
                return {str(key.value) for key in spec.keys if isinstance(key, ast.Constant)}
            if isinstance(spec, ast.Call):
                return {str(word.arg) for word in spec.keywords}
    return set()


@pytest.mark.parametrize("page", PAGES, ids=str)
class TestPage:
    def test_links_lead_somewhere(self, page: Path) -> None:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), link

    def test_paths_of_the_repository_exist(self, page: Path) -> None:
        for path in re.findall(rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./-]*\w)", page.read_text()):
            assert Path(path).exists() or path in WRITTEN_BY_COMMANDS | WRITTEN_BY_HAND, path

    def test_fab_verbs_and_their_flags_exist(self, page: Path) -> None:
        for verb, rest in re.findall(r"(?:^|[`/]|\$ )fab ([a-z][a-z.]*)([^`\n;#|]*)", page.read_text(), re.M):
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= flags(verb), f"{verb}{rest}"

    def test_targets_of_make_exist(self, page: Path) -> None:
        done = subprocess.run(["make", "-npq"], capture_output=True, text=True, check=False)
        targets = set(re.findall(r"^([a-z-]+):", done.stdout, re.M)) | UPSTREAMS_TARGETS
        for target in re.findall(r"(?:^|`|\$ |&& )make ([a-z-]+)", page.read_text(), re.M):
            assert target in targets, target

    def test_variables_exist(self, page: Path) -> None:
        known = {name for section in settings.specs().values() for name in section.get("options") or ()}
        # Pages speak of variables in code, where modules and the engine's own files have names like theirs.
        others = {path.stem for path in [*MODULES, *Path("plugins").rglob("ds4_*.py")]} | {"ds4_help"}
        text = page.read_text()
        # A changelog says what a name was: "`old` is `new`".
        known |= (
            set(re.findall(r"`(ds4_\w+)`\s+is\s+`ds4_\w+`", text)) if page.name == "CHANGELOG.md" else set()
        )
        for name in re.findall(r"(?<![\w/.-])ds4_[a-z0-9_]+(?!\w*\.py)", text):
            assert name in known | settings.CONNECTION | others, name


def flags(verb: str) -> set[str]:
    """What a verb of `fab` takes, as typed; fails for a verb that there is not."""
    from ds4fleet.cli import verbs

    known = set(verbs.ns.task_names) | {
        alias for aliases in verbs.ns.task_names.values() for alias in aliases
    }
    assert verb in known, verb
    names = [name for argument in verbs.ns[verb].get_arguments() for name in argument.names]
    return {f"--{name.replace('_', '-').strip('-')}" if len(name) > 1 else f"-{name}" for name in names}


def rows(page: str, title: str) -> list[str]:
    """The first cells of the table whose head begins with `title`."""
    table = Path(page).read_text().partition(f"\n| {title} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| ([^|]+?) \|", table, re.M)[1:]


def test_the_concepts_name_every_stage_and_role_in_order() -> None:
    assert rows("docs/concepts.md", "stage") == list(STAGES)
    assert rows("docs/concepts.md", "role") == [role for role in ROLES if role != "auto"]


def test_every_verb_of_fab_is_on_a_page() -> None:
    from ds4fleet.cli import verbs

    pages = "\n".join(page.read_text() for page in PAGES)
    for verb in verbs.ns.task_names:
        assert re.search(rf"\bfab {re.escape(verb.removesuffix('.open'))}\b", pages), verb


def test_every_target_of_make_is_told_by_its_help() -> None:
    help_text = subprocess.run(["make", "help"], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)$", Path("Makefile").read_text(), re.M)
    assert phony is not None
    for target in phony[1].replace("$(BENCHES)", "").split():
        assert re.search(rf"(?<![\w-]){target}(?![\w-])", help_text), target
