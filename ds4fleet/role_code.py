"""What the role runs on Macs (Python 3.9, standard library alone), where the controller decides the same.

One copy of the code, under the name that it has there (`ansible.module_utils.<name>`): what a parser or a
rule says on the Mac, it says here in the same words.
"""

from __future__ import annotations

import ansible.module_utils

from ds4fleet.fleet import CHECKOUT

_FOLDER = str(CHECKOUT / "roles" / "ds4" / "module_utils")
# Ansible finds a role's module_utils under this name when it builds a module; here nobody has told it.
if _FOLDER not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_FOLDER)

from ansible.module_utils import (  # noqa: E402
    ds4_accounts,
    ds4_gguf,
    ds4_http,
    ds4_json,
    ds4_models,
    ds4_origin,
    ds4_output,
    ds4_parse,
    ds4_peer,
    ds4_plain,
    ds4_seed,
    ds4_settings,
    ds4_volumes,
    ds4_window,
)

__all__ = [
    "ds4_accounts",
    "ds4_gguf",
    "ds4_http",
    "ds4_json",
    "ds4_models",
    "ds4_origin",
    "ds4_output",
    "ds4_parse",
    "ds4_peer",
    "ds4_plain",
    "ds4_seed",
    "ds4_settings",
    "ds4_volumes",
    "ds4_window",
]
