"""What the role runs on Macs (Python 3.9, standard library alone), where the controller needs the same."""

from __future__ import annotations

import ansible.module_utils

from ds4fleet.render import ROLE

_FOLDER = str(ROLE / "module_utils")
# Ansible finds a role's module_utils under this name when it builds a module; here nobody has told it.
if _FOLDER not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_FOLDER)

from ansible.module_utils import ds4_gguf, ds4_seed  # noqa: E402

__all__ = ["ds4_gguf", "ds4_seed"]
