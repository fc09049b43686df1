"""On a machine that does not have the locale of the environment, Ansible starts all the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STRANGE = {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx_YY.UTF-8"}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", ["xx_YY.UTF-8", "C.UTF-8"])
def test_one_that_is_there_is_kept_and_one_that_is_not_is_replaced(name: str) -> None:
    script = (
        "import locale, os\n"
        "from ds4fleet import locales\n"
        "locales.use_one_that_exists()\n"
        "locale.setlocale(locale.LC_ALL, '')\n"
        "print(os.environ['LC_ALL'])\n"
    )
    done = run(sys.executable, "-c", script, LC_ALL=name, LANG=name)
    assert done.stdout.strip() in ("C.UTF-8", "en_US.UTF-8"), done.stderr


def test_fab_reads_the_inventory_with_a_locale_that_is_not_there() -> None:
    done = run("fab", "plan", "--host", "tyo-01", "--json", **STRANGE)
    assert done.returncode == 0, done.stdout + done.stderr
