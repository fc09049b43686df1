"""What Ansible itself resolves: the groups, the variables and the connection facts of the hosts.

Runs as a program of its own (`python -m ds4fleet.inventory.resolve`), as Ansible reads its configuration when
it is imported and writes to the terminal. The plugins use `connection_of` within Ansible.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.settings import specs
from ds4fleet.layout import FLEET

#: Where the host keys are when neither a variable nor a file of the inventory says it.
_KNOWN_HOSTS = "known_hosts.txt"
#: What the connection plugin of OpenSSH is called.
_OPENSSH = ("ssh", "ansible.builtin.ssh", "smart")


def known_hosts_of(values: Mapping[str, Any]) -> str:
    """The file with a host's key: `ds4_known_hosts`, or the one beside the inventory that names the host.

    values: the host's templated variables, `inventory_dir` among them.
    """
    named = values.get("ds4_known_hosts")
    folder = values.get("inventory_dir")
    path = Path(str(named)) if named else Path(str(folder or FLEET / "inventory")) / _KNOWN_HOSTS
    return str(path.expanduser().absolute())


def connection_of(name: str, values: Mapping[str, Any]) -> Connection:
    """The connection facts of a host, by the options of Ansible's ssh connection and all their aliases.

    values: the host's variables; what is read of them comes out templated.
    """
    from ansible import constants
    from ansible.plugins.loader import connection_loader

    kind = str(values.get("ansible_connection") or constants.config.get_config_value("DEFAULT_TRANSPORT"))
    # Loading it makes its options known to the configuration.
    connection_loader.get("ssh", class_only=True)
    known = constants.config.get_plugin_vars("connection", "ssh")
    given = {key: values[key] for key in known if key in values}
    # `delegated_vars[...]` is of tasks only; every host has its name.
    given.setdefault("inventory_hostname", name)
    options = constants.config.get_plugin_options("connection", "ssh", variables=given)

    def words(option: str) -> tuple[str, ...]:
        return tuple(shlex.split(str(options.get(option) or "")))

    trouble = ""
    if kind not in _OPENSSH:
        trouble = f"its ansible_connection is {kind}; fab reaches Macs by ssh alone"
    elif options.get("private_key"):
        trouble = "its private key is a variable's text; name a file in ansible_ssh_private_key_file"
    provider = str(options.get("pkcs11_provider") or "")
    port = options.get("port")
    return Connection(
        address=str(options["host"]),
        known_hosts=known_hosts_of(values),
        port=None if port in (None, "") else int(str(port)),
        user=str(options.get("remote_user") or ""),
        key_file=str(options.get("private_key_file") or ""),
        ssh_args=words("ssh_args"),
        more_args=(
            *(("-o", f"PKCS11Provider={provider}") if provider else ()),
            *words("ssh_common_args"),
            *words("ssh_extra_args"),
        ),
        executable=str(options.get("ssh_executable") or "ssh"),
        timeout_s=int(options.get("timeout") or 0),
        trouble=trouble,
    )


def _listing(sources: Sequence[str], limit: str) -> dict[str, Any]:
    """The groups with hosts and children, the variables and connections of the hosts that `limit` names."""
    from ansible import constants
    from ansible.cli import CLI
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.vars.manager import VariableManager

    init_plugin_loader()
    loader = DataLoader()
    secrets = CLI.setup_vault_secrets(loader, constants.DEFAULT_VAULT_IDENTITY_LIST, auto_prompt=False)
    loader.set_vault_secrets(secrets)
    named = list(sources) or list(constants.DEFAULT_HOST_LIST)
    inventory = InventoryManager(loader=loader, sources=named)
    if limit:
        inventory.subset(limit)
    variables = VariableManager(loader=loader, inventory=inventory, version_info=CLI.version_info())
    hosts = inventory.get_hosts("all")
    chosen = {host.name for host in hosts}
    groups: dict[str, Any] = {}
    for name, group in inventory.groups.items():
        groups[name] = {
            "hosts": [] if name == "all" else [one.name for one in group.hosts if one.name in chosen],
            "children": [child.name for child in group.child_groups],
        }
    found = {host.name: _host(host, variables, loader) for host in hosts}
    return {
        **groups,
        "_meta": {
            "hostvars": {name: values for name, (values, _way) in found.items()},
            "connections": {name: way for name, (_values, way) in found.items()},
            "sources": [source if "," in source else str(Path(source).absolute()) for source in named],
        },
    }


def _host(host: Any, manager: Any, loader: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from ansible.template import Templar

    raw = manager.get_vars(host=host, include_hostvars=True)
    templar = Templar(loader=loader, variables=raw)
    secret = _secret()
    inventory = {key: value for key, value in raw.items() if key.startswith(("ds4_", "ansible_"))}
    values = {
        key: _templated(templar.template, value) if key.startswith("ds4_") and key not in secret else value
        for key, value in inventory.items()
        if key not in _OF_ANSIBLE
    }
    try:
        way = connection_of(host.name, _Templated(raw, templar.template)).to_dict()
    except Exception as error:  # what a template of the user's can raise has no common kind
        way = Connection(address=host.name, trouble=_sentence(error)).to_dict()
    return values, way


#: Not the inventory's: what Ansible adds to the variables of each host.
_OF_ANSIBLE = frozenset(
    [
        "ansible_version",
        "ansible_playbook_python",
        "ansible_config_file",
        "ansible_facts",
        "ansible_local",
    ]
)


class _Templated(dict[str, Any]):
    """Variables that are templated as they are read."""

    def __init__(self, raw: Mapping[str, Any], template: Callable[[Any], Any]) -> None:
        super().__init__(raw)
        self._template = template

    def __getitem__(self, name: str) -> Any:
        try:
            return self._template(super().__getitem__(name))
        except KeyError:
            raise
        except Exception as error:
            raise ValueError(f"{name} has no value: {_sentence(error)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


def _secret() -> frozenset[str]:
    return frozenset(
        name
        for section in specs().values()
        for name, option in section.get("options", {}).items()
        if option.get("no_log")
    )


def _templated(template: Callable[[Any], Any], value: Any) -> Any:
    """The value, or the template itself where it needs what only a run has (facts, a registered result)."""
    if _is_vaulted(value):
        return value
    try:
        return template(value)
    except Exception:
        return value


def _is_vaulted(value: Any) -> bool:
    return type(value).__name__ == "EncryptedString"


def _plain(value: Any) -> Any:
    """For json: what it does not know, as text; a vaulted value stays locked."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    if _is_vaulted(value):
        return {"__ansible_vault": "locked"}
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def main(argv: Sequence[str]) -> int:
    """LIMIT SOURCE...: writes the listing as JSON on the standard output that it was started with."""
    limit, *sources = argv or [""]
    # Lookups and scripts of an inventory may write to the standard output.
    with os.fdopen(os.dup(1), "w") as told:
        os.dup2(2, 1)
        from ansible.errors import AnsibleError

        try:
            found = _plain(_listing(sources, limit))
        except AnsibleError as error:
            print(f"[ERROR]: {_sentence(error)}", file=sys.stderr)
            return 1
        json.dump(found, told)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
