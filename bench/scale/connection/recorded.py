# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""A connection whose Mac is a folder of recorded answers."""

from __future__ import annotations

DOCUMENTATION = r"""
name: recorded
author: ds4-fleet contributors
short_description: Answer each module from a folder of recorded results
description:
  - For C(bench/scale). Starts nothing and connects to nothing; the module that Ansible packed for the host is
    built and handed over as for a real one, and its recorded result comes back.
  - The file is C(<host>/<module>.json), or C(any/<module>.json) where all hosts answer alike.
options:
  recorded_folder:
    description: The folder of the recorded results.
    type: path
    required: true
    env:
      - name: DS4_BENCH_RECORDED
extends_documentation_fragment:
  - connection_pipelining
"""

import re  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.errors import AnsibleConnectionFailure  # noqa: E402
from ansible.plugins.connection import ConnectionBase  # noqa: E402

#: How a packed module names itself: ansible/_internal/_ansiballz/_wrapper.py of ansible-core 2.19 to 2.21.
_MODULE = re.compile(rb"ansible_module=['\"](?:[\w.]+\.)?(\w+)['\"]")


#: How Ansible asks for a temporary folder: `ShellBase.mkdtemp` of ansible/plugins/shell/__init__.py.
_FOLDER = re.compile(r"&& echo (ansible-tmp-[\d.-]+)=")


class Connection(ConnectionBase):
    """The connection. Outside of modules only a temporary folder is given, all else succeeds silently."""

    transport = "recorded"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if not in_data:
            folder = _FOLDER.search(cmd)
            return 0, f"{folder[1]}=/var/tmp/{folder[1]}\n".encode() if folder else b"", b""
        named = _MODULE.search(in_data)
        if named is None:
            raise AnsibleConnectionFailure("bench: a packed module does not say its name")
        folder = Path(self.get_option("recorded_folder"))
        name = f"{named[1].decode()}.json"
        own = folder / self._play_context.remote_addr / name
        return 0, (own if own.exists() else folder / "any" / name).read_bytes(), b""

    def put_file(self, in_path, out_path):
        raise AnsibleConnectionFailure("bench: the recorded Mac takes no files")

    def fetch_file(self, in_path, out_path):
        raise AnsibleConnectionFailure("bench: the recorded Mac gives no files")

    def close(self):
        self._connected = False
