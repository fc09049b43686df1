"""What all tests share: they run from the checkout, wherever pytest was started."""

from __future__ import annotations

import os

from ds4fleet import locales
from ds4fleet.layout import CHECKOUT

os.chdir(CHECKOUT)
locales.use_one_that_exists()
# A developer's own Ansible settings must not decide whether a test passes.
for _name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
    del os.environ[_name]
os.environ["ANSIBLE_CONFIG"] = str(CHECKOUT / "ansible.cfg")
