"""What a proof brings: an inventory of one Mac, the stand-in engine's history, small weights, a catalogue."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ds4agent import naming
from ds4fleet.components import agent
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.connection import way_words
from ds4fleet.inventory.fleet import Host
from maclab import engine
from maclab.weights import proof

MODEL = "proof"
#: Generations of the stand-in: the first, the one to upgrade to, and one that builds and does not serve.
FIRST, NEXT, BAD = "august", "september", "no-serve"
#: Where the engine's history is put on the Mac; only root writes there.
ON_THE_MAC = "/private/var/root/ds4-prove"
#: A port that a fleet's engine does not have, so that neither reaches the other.
PORT = 18999
#: What a proof's installation is called, beside its root: nothing of it is shared with a fleet's.
NAMES: Mapping[str, object] = {
    "ds4_root": naming.PROOF_ROOT,
    "ds4_service_user": "_ds4prove",
    "ds4_seed_user": "_ds4proveseed",
    "ds4_tunnel_user": "_ds4provetunnel",
    "ds4_storage_models_volume": "ds4-prove-models",
    "ds4_storage_kv_volume": "ds4-prove-kv",
    "ds4_port": PORT,
}
#: Settings under which the smallest Mac serves, quickly, and under which nothing of macOS is changed.
SETTINGS: Mapping[str, object] = {
    "ds4_role": "serve",
    "ds4_mode": "resident",
    "ds4_model": MODEL,
    "ds4_context": 1024,
    "ds4_kv_budget_mib": 64,
    # Only a limit; a simulated disk holds a 4096th of what it plays, and has to hold the weights.
    "ds4_storage_models_quota_gb": 12,
    "ds4_power": {},
    "ds4_updates": "keep",
    "ds4_timezone": "",
    "ds4_drain_s": 5,
    "ds4_min_healthy_s": 2,
    "ds4_min_serving": 0,
    "ds4_upgrade_waves": ["100%"],
    "ds4_throttle_s": 10,
    "ds4_gate_speed_ratio": 0.1,
}


@dataclass(frozen=True)
class Kit:
    """Files of a proof on this machine, and the variables that lead the role to them."""

    folder: Path
    commits: Mapping[str, str]
    public_key: str

    @property
    def inventory(self) -> Path:
        """What Ansible takes for the inventory."""
        return self.folder / "inventory.yml"

    @property
    def bundle(self) -> Path:
        """The engine's history as one file, for the Mac."""
        return self.folder / "engine.bundle"

    @property
    def key(self) -> Path:
        """Private key of the tunnel's user."""
        return self.folder / "tunnel_key"


def make(folder: Path, host: Host, wired_limit_mib: int) -> Kit:
    """Writes all of it into `folder`, which only its owner reads. Raises OperatorError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    commits = engine.commits(folder / "engine.git")
    kit = Kit(folder, commits, _key(folder))
    _git(folder / "engine.git", "bundle", "create", "--quiet", str(kit.bundle), "--all")
    weights = proof.ensure(folder / "weights")
    (folder / "catalogue.yml").write_text(yaml.safe_dump(_catalogue(commits), sort_keys=False))
    kit.inventory.write_text(_inventory(host, variables(kit, weights.parent, wired_limit_mib)))
    return kit


def variables(kit: Kit, weights: Path, wired_limit_mib: int) -> dict[str, object]:
    """Variables of the Mac for the role. wired_limit_mib: 0 leaves the GPU wired limit to macOS."""
    return {
        **NAMES,
        **SETTINGS,
        "ds4_wired_limit_mib": wired_limit_mib or "auto",
        "ds4_engine_repo": f"file://{ON_THE_MAC}/engine.git",
        "ds4_engine_commit": kit.commits[FIRST],
        "ds4_catalogue": [str(kit.folder / "catalogue.yml")],
        "ds4_weights_sources": [f"file://{weights}"],
        "ds4_tunnel_keys": [kit.public_key],
    }


def _catalogue(commits: Mapping[str, str]) -> dict[str, Any]:
    generations = {name: engine.named(name) for name in (FIRST, NEXT, BAD)}
    return {
        "models": {
            MODEL: {
                "name": "Weights of a proof",
                "family": proof.FAMILY,
                "quant": proof.QUANT,
                "repo": "ds4-fleet/proof",
                "files": [{"name": proof.NAME, "bytes": proof.SIZE_BYTES, "sha256": proof.sha256()}],
            }
        },
        "engines": {
            # That one of them does not serve is for the gate to find out.
            commits[name]: {"generation": one.generation, "date": one.date[:10], "note": f"stand-in, {name}"}
            for name, one in generations.items()
        },
    }


def _inventory(host: Host, own: Mapping[str, object]) -> str:
    reached = {
        "ansible_host": host.address,
        "ansible_port": host.port,
        "ansible_python_interpreter": agent.PYTHON,
        "ansible_ssh_common_args": shlex.join([*host.ssh_options(), *way_words(host.reached.more_args)]),
        "ds4_known_hosts": str(host.known_hosts),
        "ds4_bootstrap_user": host.user or "admin",
        "ds4_hardware": dict(host.hardware),
    }
    if host.user:
        reached["ansible_user"] = host.user
    if host.private_key:
        reached["ansible_ssh_private_key_file"] = str(host.private_key)
    tree = {"regions": {"children": {"proof": {"hosts": {host.name: {**reached, **own}}}}}}
    # JSON is YAML, and needs no thought about what a value looks like.
    return json.dumps({"all": {"children": tree}}, indent=1, default=str) + "\n"


def _key(folder: Path) -> str:
    path = folder / "tunnel_key"
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ds4-prove", "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return path.with_suffix(".pub").read_text().strip()


def _git(repository: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OperatorError(f"git cannot pack the stand-in engine: {done.stderr.strip()}")
