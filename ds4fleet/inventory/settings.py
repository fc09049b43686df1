"""The public variables of the role, checked as its argument_specs say; refusals are single sentences.

Ansible checks them too when a role starts, but tells it in pages of JSON; here it is one line per mistake,
and a name that no section knows is a mistake as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ds4fleet import yaml_text
from ds4fleet.inventory import defaults, names, renamed
from ds4fleet.layout import ROLE

SPECS = ROLE / "meta" / "argument_specs.yml"

#: Names of the inventory's own that are no option of the role: how a host is reached, and by which user.
CONNECTION = frozenset(
    [
        "ds4_known_hosts",
        "ds4_fleet_layer",
        "ds4_tunnel_key_file",
        "ds4_tunnel_ssh_args",
        "ds4_region",
        "ds4_region_port",
        "ds4_facts_folder",
    ]
)


@cache
def specs() -> Mapping[str, Any]:
    """The argument_specs of the role by entry point."""
    sections: Mapping[str, Any] = yaml_text.parse(SPECS.read_text())["argument_specs"]
    return sections


#: What is wrong with values by a section's options, in Ansible's words; the plugins pass Ansible's own.
Validator = Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]]


def mistakes(host: str, settings: Mapping[str, Any], validate: Validator, login: str = "") -> list[str]:
    """Sentences about values of the wrong type or outside their choices, about names that mean more than
    themselves on a Mac, and about variables that are unknown.

    host: the inventory name. settings: the host's templated variables that begin with ds4_. login: the
    administrator's account, where it is known.
    """
    known = {name for section in specs().values() for name in section.get("options", ())}
    options = specs()["main"]["options"]
    given = {name: value for name, value in settings.items() if name in options and value is not None}
    sentences = [f"{host}: {' '.join(text.split())}" for text in validate(options, given)]
    # What templates make of a variable without a value is the empty text, not its default.
    sentences += [
        f"{host}: {name} has no value; give it one, or leave it out for its default"
        for name, value in sorted(settings.items())
        if value is None and "default" in options.get(name, ())
    ]
    if not sentences:
        found = names.mistakes({**defaults.role_defaults(), **settings}, host=host, login=login)
        sentences = [f"{host}: {sentence}" for sentence in found]
    else:
        sentences += [f"{host}: {sentence}" for sentence in renamed.refusals(settings)]
    for name in sorted(set(settings) - known - CONNECTION - renamed.VARIABLES.keys()):
        near = difflib.get_close_matches(name, sorted(known), n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; own variables need another prefix"
        sentences.append(f"{host}: {name} is not a variable of ds4-fleet{hint}")
    return sentences
