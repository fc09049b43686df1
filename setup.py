"""What pip installs beside the packages of pyproject.toml: the collection ds4.fleet, where Ansible finds it
among Python's packages, and the lab. A checkout is used as it is and needs none of it (make setup)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
#: Of the collection. Its name, version and the rest come from pyproject.toml.
PARTS = ("CHANGELOG.md", "LICENSE", "README.md", "meta", "playbooks", "plugins", "requirements.txt", "roles")
WITHOUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info", "*_vars")


class Build(build_py):  # type: ignore[misc]
    """Copies the trees that hold more than Python."""

    def run(self) -> None:
        """The packages, then the trees. Linked packages (pip install -e) have the checkout beside them."""
        super().run()
        if self.editable_mode:
            return
        top = Path(self.build_lib)
        shutil.copytree(HERE / "maclab", top / "maclab", ignore=WITHOUT, dirs_exist_ok=True)
        collection = top / "ansible_collections" / "ds4" / "fleet"
        collection.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            source, target = HERE / name, collection / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=WITHOUT, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
        about = self.distribution.metadata
        info = {
            "namespace": "ds4",
            "name": "fleet",
            "version": about.version,
            "authors": ["ds4-fleet contributors"],
            "description": about.description,
            "license": ["MIT"],
            "dependencies": {},
        }
        manifest = {"collection_info": info, "format": 1}
        (collection / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


setup(cmdclass={"build_py": Build})
