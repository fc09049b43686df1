"""`fab` as ds4-fleet installs it: Fabric's program, which knows our version and our overview."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

from fabric.config import Config
from fabric.executor import Executor
from fabric.main import Fab
from invoke.collection import Collection
from invoke.exceptions import Exit

from ds4fleet import __version__, blocks

#: Of ds4fleet.layout, which looks for the fleet's folder when it is imported: later than this.
START_VARIABLE = "DS4_FLEET_FOLDER"


class Program(Fab):  # type: ignore[misc]  # fabric has no types
    """Fabric prints its own version, and its own options where no verb stands."""

    def print_version(self) -> None:
        """One line: ours, then what it runs on."""
        parts = ", ".join(f"{name} {metadata.version(name)}" for name in ("ansible-core", "fabric"))
        blocks.write(f"ds4-fleet {__version__} ({parts}, Python {sys.version.split()[0]})\n")

    def load_collection(self) -> None:
        """The verbs of the folder that the command is given in, or one above it. Where none has any, ours."""
        place = self.args["search-root"].value
        if place:
            os.environ[START_VARIABLE] = str(Path(place).absolute())
        try:
            super().load_collection()
        except Exit:
            if place or self.args.collection.value:
                raise
            self.collection = self._ours()

    def _ours(self) -> Collection:
        from ds4fleet.cli import command_line, verbs

        command_line.check(verbs.ns)
        return verbs.ns

    def print_help(self) -> None:
        """The verbs of this directory; loading them shows them. Elsewhere Fabric's own options."""
        self.load_collection()
        super().print_help()


program = Program(name="ds4-fleet", version=__version__, executor_class=Executor, config_class=Config)


def main() -> None:
    """The command `fab`."""
    sys.exit(program.run())
