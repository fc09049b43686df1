"""Twins of observed Macs, to rehearse a change on: what the role did to the original, done to the copy.

The lab gives a twin what macOS itself keeps (maclab.machine.twin). What the role has put on the original
(engine, weights, files, jobs) is put on the twin by the role too, with variables that describe what was
observed instead of what the inventory wants now; then `drift` undoes on the twin whatever the original lacks
or has otherwise.

A twin has the stand-ins of engine and weights, so texts that name them differ from the original's; what is
compared is whether a file was as the role would have written it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ds4agent.model import Engine, FileFacts, ModelError, Observation
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.layout import FLEET
from ds4fleet.plan.make import make_plan
from ds4fleet.remote import playbook
from maclab import Lab
from maclab.machine.twin import power_settings

Facts = Mapping[str, Any]
HOSTS = FLEET / "inventory" / "hosts.yml"
UPDATES_DOMAIN = "/Library/Preferences/com.apple.SoftwareUpdate"
#: Options of the server's command line, and the variables that make the role write them.
_ARGUMENTS = {"--ctx": "ds4_context", "--port": "ds4_port", "--kv-disk-space-mb": "ds4_kv_budget_mib",
              "--host": "ds4_listen_address"}  # fmt: skip


def read(folder: Path, hosts: Iterable[str]) -> dict[str, Facts]:
    """The facts of those `hosts` that `folder` has facts of.

    Raises OperatorError when there are none at all, or a file is not what `fab observe` writes.
    """
    found: dict[str, Facts] = {}
    for host in hosts:
        path = folder / f"{host}.json"
        if not path.exists():
            continue
        try:
            data = json.loads(path.read_text())
        except ValueError as error:
            raise OperatorError(
                f"{path} is not JSON: make it anew with `fab observe`", exit_code=EXIT_USAGE
            ) from error
        if not isinstance(data, dict) or "schema" not in data or "hardware" not in data:
            raise OperatorError(
                f"{path} holds no facts of a Mac: make it anew with `fab observe`", exit_code=EXIT_USAGE
            )
        _observation(data, str(path))
        found[host] = data
    if not found:
        raise OperatorError(
            f"{folder} has no facts of these hosts: make them with `fab observe`", exit_code=EXIT_USAGE
        )
    return found


def _observation(facts: Facts, what: str) -> Observation:
    """Raises OperatorError for what no release that this one knows has written."""
    try:
        return Observation.from_json(facts, what)
    except ModelError as error:
        raise OperatorError(f"{error}; make it anew with `fab observe`", exit_code=EXIT_USAGE) from None


def variables(seen: Observation, catalogue: Catalogue, *, here: bool = True) -> dict[str, Any]:
    """Variables with which the role makes what was observed: engine, model and the server's settings.

    `here`: in this lab; otherwise where the facts were taken. Empty when no engine was there. Raises
    OperatorError for weights that the catalogue does not know.
    """
    argv = seen.server.argv or ()
    if not seen.engine.current:
        return {}
    chosen: dict[str, Any] = {"ds4_engine_commit": pinned(seen.engine, catalogue, here=here)}
    for option, name in _ARGUMENTS.items():
        if option in argv[:-1]:
            value = argv[argv.index(option) + 1]
            chosen[name] = int(value) if value.isdigit() else value
    main = next((argv[i + 1] for i, word in enumerate(argv[:-1]) if word in ("-m", "--model")), "")
    served = Path(main or seen.server.open_weights or "").name
    if served:
        chosen["ds4_model"] = _model_of(served, catalogue)
    if "--ssd-streaming" in argv:
        chosen["ds4_mode"] = "streaming"
    if seen.memory.wired_limit_mib:
        chosen["ds4_wired_limit_mib"] = seen.memory.wired_limit_mib
    return chosen


def pinned(engine: Engine, catalogue: Catalogue, *, here: bool) -> str:
    """The commit to ask for so that the engine comes out that was current.

    The pinned one of a stand-in, else its own. `here`: an engine that has no stand-in in this lab is replaced
    by the newest of the generation that its flags belong to.
    """
    release = next((one for one in engine.releases if one.id == engine.current), None)
    commit = (release.commit if release else None) or str(engine.current)
    for of, to in catalogue.engine_stand_ins.items():
        if to == commit or of.startswith(commit) or commit.startswith(of):
            return of
    if not here:
        return commit
    capable = release.capabilities if release else None
    flags = capable.flags if capable else ()
    generation = catalogue.generation_of_flags(flags) if flags else catalogue.newest_generation.id
    known = (catalogue.engine(of) for of in catalogue.engine_stand_ins)
    fitting = [one for one in known if one.generation == generation and not one.known_bad]
    return max(fitting, key=lambda one: one.date).pinned if fitting else commit


def _model_of(file_name: str, catalogue: Catalogue) -> str:
    for identifier, entry in catalogue.models.items():
        if any(file.name == file_name for file in entry.files):
            return identifier
    raise OperatorError(
        f"the original serves {file_name}, which the catalogue does not know: add it to ds4_catalogue"
    )


def converge(lab: Lab, facts: Mapping[str, Facts]) -> None:
    """Let the role make the twins what their originals were, then undo what the originals lack.

    Needs the twins to be up. Raises OperatorError when a playbook fails; its output is in the lab's log
    folder.
    """
    catalogue = load([str(lab.folder / "upstreams" / "catalogue.yml")])
    seen = {host: _observation(entry, f"the facts of {host}") for host, entry in facts.items()}
    ready = [host for host, entry in facts.items() if "toolchain" in entry and seen[host].toolchain.ok]
    if not ready:
        return
    inventory = _inventory(lab, {host: variables(seen[host], catalogue) for host in ready})
    _play(lab, "bootstrap", ready, inventory)
    serving = [host for host in ready if variables(seen[host], catalogue)]
    if serving:
        _play(lab, "site", serving, inventory)
    for host in ready:
        drift(lab, host, seen[host])
        with lab.locked_mac(host) as mac:
            power_settings(mac, facts[host])


def _inventory(lab: Lab, hosts: Mapping[str, Mapping[str, Any]]) -> Path:
    folder = lab.folder / "twin"
    (folder / "host_vars").mkdir(parents=True, exist_ok=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {host: {} for host in hosts}}}))
    for host, values in hosts.items():
        (folder / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(dict(values)))
    return folder


def _play(lab: Lab, name: str, hosts: list[str], inventory: Path) -> None:
    inventories = [f"--inventory={source}" for source in (HOSTS, lab.inventory_path, inventory)]
    log = lab.folder / "log" / f"twin-{name}.log"
    with log.open("wb") as output:
        status = playbook.run(
            name,
            hosts,
            None,
            *inventories,
            environment={"ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(lab.folder / "ansible")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    if status:
        raise OperatorError(f"the role could not make the twins of {', '.join(hosts)}: see {log}")


def drift(lab: Lab, host: str, seen: Observation) -> None:
    """Make a converged twin differ where its original differs from what the role would have made."""
    overlay = load([str(lab.folder / "upstreams" / "catalogue.yml")])
    rehearsed = of_a_lab(seen, overlay)
    sources = [HOSTS, *([lab.inventory_path] if rehearsed else [])]
    settings = Fleet.load(None, sources).host(host).settings
    key = lab.key_path.with_suffix(".pub").read_text().split()[1]
    script = drift_script(seen, odd_files(host, seen, settings, overlay if rehearsed else load(), key))
    done = lab.exec(host, ["/bin/sh", "-c", script])
    if done.returncode:
        raise OperatorError(f"{host}: its differences could not be copied to the twin", detail=done.stderr)


def odd_files(
    host: str, seen: Observation, settings: Mapping[str, Any], catalogue: Catalogue, key: str
) -> list[str]:
    """Paths whose text on the original was not what the role writes for what runs there.

    `settings`: the host's variables where the facts were taken. `key`: this lab's public key; a text with it
    says nothing about an original that was in another lab.
    """
    wanted = make_plan(
        host, {**settings, **variables(seen, catalogue, here=False)}, seen, catalogue, templated=False
    )
    odd = []
    for entry in wanted.files:
        have = seen.files.get(entry.path)
        if entry.kind != "file" or entry.content is None or have is None or have.kind != "file":
            continue
        text = entry.content
        if key not in text and have.sha256 != hashlib.sha256(text.encode()).hexdigest():
            odd.append(entry.path)
    return odd


def of_a_lab(seen: Observation, catalogue: Catalogue) -> bool:
    """Whether the facts were taken from a simulated Mac: its weights are stand-ins."""
    sizes = {file.name: (file.bytes, file.transfer_bytes) for file in catalogue.files()}
    return any(file.size_bytes < sizes[file.name][0] for file in seen.weights.files if file.name in sizes)


def _known(seen: Observation) -> dict[str, FileFacts]:
    """Files by their paths, without those that could not be read."""
    return {path: have for path, have in seen.files.items() if have is not None}


def drift_script(seen: Observation, odd: Iterable[str]) -> str:
    """Shell commands for the twin: spoil, remove, own and unload what was spoilt, absent and unloaded."""
    lines = ["set -e"]
    for path in odd:
        lines.append(f"if [ -f {_q(path)} ]; then echo '# as found on the original' >> {_q(path)}; fi")
    for path, have in sorted(_known(seen).items(), key=lambda item: item[0], reverse=True):
        if have.kind == "absent":
            lines.append(f"rm -rf {_q(path)}")
        elif have.owner and have.mode:
            owner = _q(f"{have.owner}:{have.group}")
            lines.append(
                f"if [ -e {_q(path)} ]; then chown {owner} {_q(path)}; chmod {have.mode} {_q(path)}; fi"
            )
    for key, value in seen.updates.items():
        if isinstance(value, bool):
            lines.append(f"defaults write {UPDATES_DOMAIN} {_q(key)} -bool {str(value).lower()}")
    for label, job in seen.jobs.items():
        if job.disabled:
            lines.append(f"launchctl disable system/{_q(label)}")
        if not job.loaded:
            lines.append(f"launchctl bootout --wait system/{_q(label)} || true")
    return "\n".join(lines) + "\n"


def _q(text: str) -> str:
    return shlex.quote(text)
