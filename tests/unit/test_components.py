"""Everything that we put on a Mac: applied, applied again, removed, removed again, on a Mac that is data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from ds4agent.border import shaped
from ds4agent.model import Observation, Volume
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.components import jump, registry, scripts
from ds4fleet.components.base import Decided, JumpPlan, Named, Part, Targets, sha256
from ds4fleet.components.shapes import FileEntry, Job, MemoryPlan
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.layout import CHECKOUT, Paths
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.removal import removal
from ds4fleet.plan.settings import Reader, read_settings, wishes
from ds4fleet.plan.steps import steps
from ds4fleet.plan.types import STAGES
from ds4fleet.plan.watch import watch
from ds4fleet.sizing.disk import Disk
from tests.unit import plan_mac as mac

SETTINGS = {
    **role_defaults(),
    "ds4_prefill_chunk": None,
    "ds4_power_percent": None,
    "ds4_exit_timeout_s": "auto",
}
SPEC = TunnelSpec(name="hk-01", region="hk", address="192.0.2.1", user="_ds4tunnel", local_port=18000)
TARGETS = Targets((SPEC,), False, "hk-01 ssh-ed25519 AAAA\n")
ROLES = {"serve": 128, "staging": 64, "jump": 24}
COMPONENTS = {component.__name__.rpartition(".")[2]: component for component in registry.COMPONENTS}  # type: ignore[attr-defined]


def decided(role: str) -> Decided:
    """The decisions of a plan for the smallest Mac of a role, with the volumes that it found."""
    plan = make_plan("mac-01", mac.variables(ROLES[role]), mac.bare(ROLES[role]))
    assert plan.refusals == [] and plan.role == role
    found = {volume.purpose: None for volume in plan.volumes}
    disk = Disk(plan.volumes, None, None, 0, 0, 0, 0, observed=found) if plan.volumes else None
    return Decided(
        host=plan.host,
        region=plan.region,
        role=plan.role,
        mode=plan.mode,
        model=plan.model,
        context=plan.context,
        generation=plan.generation,
        memory=MemoryPlan(wired_limit_mib=90_000 if role == "serve" else 0),
        disk=disk,
        engine=plan.engine,
        weights=plan.weights,
        settings=wishes(Reader(SETTINGS), read_settings(Reader(SETTINGS))),
        power={"sleep": 0},
        jump=JumpPlan("hk-01", ["hk-01"], has_key=True) if role == "jump" else None,
        targets=TARGETS if role == "jump" else None,
    )


class TestLife:
    """apply, again, remove, again."""

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("name", COMPONENTS)
    def test_of_a_component(self, name: str, role: str) -> None:
        component, plan = COMPONENTS[name], decided(role)
        part = component.entries(plan)
        here = Simulated()
        first = steps(plan, part, Observation.from_json(here.seen()), components=[component])
        wanted = [entry for entry in part.files if entry.kind != "absent"]
        assert len({step.what for step in first if step.what.startswith(("make", "write", "link"))}) == len(
            {entry.path for entry in wanted}
        )
        plan = here.apply(plan, part)
        assert steps(plan, part, Observation.from_json(here.seen()), components=[component]) == []
        # Its directory for KV entries is on a volume, which is another component's.
        gone = replace(component.removed(SETTINGS), volumes=registry.removed(SETTINGS).volumes)
        here.remove(gone)
        assert here.left() == set(), f"{name} leaves this behind"
        before = here.seen()
        here.remove(gone)
        assert here.seen() == before

    @pytest.mark.parametrize("role", ROLES)
    def test_of_all_of_them(self, role: str) -> None:
        plan, here = decided(role), Simulated()
        part = registry.assemble(plan)
        assert steps(plan, part, Observation.from_json(here.seen()))
        plan = here.apply(plan, part)
        assert steps(plan, part, Observation.from_json(here.seen())) == []
        for _ in range(2):
            here.remove(registry.removed(SETTINGS))
            assert here.left() == set()

    def test_of_one_role_after_another_leaves_no_job_of_the_first(self) -> None:
        here = Simulated()
        for role in ("serve", "jump", "staging", "serve"):
            plan = decided(role)
            part = registry.assemble(plan)
            plan = here.apply(plan, part)
            assert steps(plan, part, Observation.from_json(here.seen())) == []
            assert here.jobs == {job.label for job in part.jobs if job.state != "absent"}


class Simulated:
    """A Mac as far as components change it, and what would be observed of it."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.jobs: set[str] = set()
        self.users: dict[str, dict[str, Any]] = {}
        self.volumes: set[str] = set()
        self.base = mac.bare(128)

    def apply(self, plan: Decided, part: Part) -> Decided:
        """Does what the stages would; returns the decisions as they are made when all of it is there."""
        for entry in part.files:
            text = scripts.with_content(entry).content
            checksum = entry.sha256 or (sha256(text) if text is not None else None)
            if entry.kind == "absent":
                self.files.pop(entry.path, None)
            else:
                self.files[entry.path] = {**asdict(entry), "sha256": checksum}
        for job in part.jobs:
            (self.jobs.discard if job.state == "absent" else self.jobs.add)(job.label)
        for user in part.users:
            known = {"home": user.home, "shell": user.shell, "hidden": user.hidden, "uid": user.uid or 450}
            self.users[user.name] = {**known, "real_name": user.real_name, "gid": 450}
        if "com.ds4fleet.wired" in self.jobs:
            self.base["memory"]["wired_limit_mib"] = plan.wired_limit_mib
        self.base["power"].update(plan.power)
        release = plan.engine.release_id if plan.engine and plan.role != "jump" else None
        releases = [{"id": release, "complete": True}] if release else []
        self.base["engine"] = {"current": release, "previous": None, "releases": releases}
        self.base["weights"]["files"] = [
            {
                "path": file.path,
                "name": file.name,
                "size_bytes": file.bytes,
                "stamp_valid": True,
                "stamp": {"sha256": file.sha256, "size_bytes": file.bytes},
            }
            for file in (plan.weights.files if plan.weights else ())
        ]
        self.base["server"]["running_config_sha256"] = part.server.config_sha256 if part.server else None
        return self._mounted(plan)

    def _mounted(self, plan: Decided) -> Decided:
        if plan.disk is None:
            return plan
        volumes = [replace(volume, uuid=f"UUID-{volume.purpose}") for volume in plan.volumes]
        self.volumes = {volume.name for volume in volumes}
        lines = "".join(f"UUID={volume.uuid} {volume.mount_point} apfs rw\n" for volume in volumes)
        self.base["storage"].update(fstab=lines, listed=lines)
        here = {"owners_enabled": True, "indexed": False}
        found = {
            one.purpose: Volume(str(one.uuid), one.name, "disk3s7", mount_point=one.mount_point, **here)
            for one in volumes
        }
        return replace(plan, disk=replace(plan.disk, volumes=volumes, observed=found))

    def remove(self, gone: Any) -> None:
        """Decommissioning without safe mode."""
        self.jobs -= set(gone.labels)
        self.volumes -= {volume["name"] for volume in gone.volumes}
        mounted = [volume["mount_point"] for volume in gone.volumes]
        trees = [*gone.trees, *gone.data, *gone.notes, *mounted]
        for path in list(self.files):
            if any(path == tree or path.startswith(f"{tree}/") for tree in trees):
                del self.files[path]
        for path in sorted(gone.files, reverse=True):
            if not any(other.startswith(f"{path}/") for other in self.files):
                self.files.pop(path, None)
        for name in gone.users:
            self.users.pop(name, None)
        if gone.wired_limit:
            self.base["memory"]["wired_limit_mib"] = 0

    def left(self) -> set[str]:
        """What is there of ours; weights and releases are the business of their own components."""
        limit = {"wired limit"} if self.base["memory"]["wired_limit_mib"] else set()
        return {*self.files, *self.jobs, *self.users, *limit}

    def seen(self) -> dict[str, Any]:
        """What ds4_info would tell."""
        groups = {name: user["gid"] for name, user in self.users.items()}
        job = {"loaded": True, "state": "running", "pid": 700, "disabled": False}
        jobs = {label: dict(job) for label in self.jobs}
        return {
            **self.base,
            "files": dict(self.files),
            "jobs": jobs,
            "users": dict(self.users),
            "groups": groups,
        }


class TestRegistry:
    def test_every_module_of_the_room_that_has_the_four_functions_is_in_it(self) -> None:
        four = ("watched", "entries", "steps", "removed")
        folder = CHECKOUT / "ds4fleet" / "components"
        having = {
            path.stem for path in folder.glob("*.py")
            if all(f"\ndef {name}(" in path.read_text() for name in four)
        }  # fmt: skip
        assert having - {"registry"} == set(COMPONENTS)

    @pytest.mark.parametrize("name", COMPONENTS)
    def test_what_a_component_writes_it_watches(self, name: str) -> None:
        component = COMPONENTS[name]
        for role in ROLES:
            plan = decided(role)
            part, kept = component.entries(plan), registry.assemble(plan).server
            releases = (plan.engine.release_id,) if plan.engine else ()
            watched = component.watched(Paths(), Named(releases, (kept.kv_identity,) if kept else ()))
            assert {entry.path for entry in part.files} <= set(watched.files)
            assert {job.label for job in part.jobs} <= set(watched.labels)
            assert {entry.stage for entry in [*part.files, *part.jobs]} <= set(STAGES)

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("stage", STAGES)
    def test_directories_come_before_what_is_in_them(self, role: str, stage: str) -> None:
        files = [one for one in registry.assemble(decided(role)).files if one.stage == stage]
        paths = [one.path for one in files if one.kind != "absent"]
        for number, path in enumerate(paths):
            assert not [later for later in paths[number:] if path.startswith(f"{later}/")], path


class TestRemoval:
    def test_it_asks_for_no_plan_and_takes_off_jobs_of_another_release_too(self) -> None:
        seen = {**mac.bare(128), "jobs": {"com.ds4fleet.former": {"loaded": True}}}
        gone = removal({"ds4_model": "no-such-model"}, seen)
        labels = {job.label: job.state for job in gone.jobs}
        assert set(labels.values()) == {"absent"} and "com.ds4fleet.former" in labels
        assert set(registry.watched(Paths(), Named()).labels) <= set(labels)

    def test_the_wired_limit_of_somebody_else_stays(self) -> None:
        assert not removal({}, mac.bare(128)).wired_limit
        assert removal({}, {"schema": 1, "jobs": {"com.ds4fleet.wired": {"loaded": True}}}).wired_limit

    def test_data_goes_apart_from_the_rest(self) -> None:
        gone = removal({}, None)
        kept = {"/opt/ds4/engine", "/var/log/ds4"}
        assert kept <= set(gone.data)
        always = [*gone.trees, *gone.notes, *(entry.path for entry in gone.files)]
        assert not [path for path in always if path.startswith(tuple(kept))]
        assert not [path for path in always if path.startswith(("/opt/ds4/models", "/opt/ds4/kv"))]


class TestSize:
    """What a run carries for each Mac."""

    def test_a_plan_is_at_most_30_kb_and_watches_at_most_60_paths(self) -> None:
        for host in Fleet.load(inventory=[CHECKOUT / "inventory"]):
            plan = make_plan(host.name, host.vars, None, region=host.region, templated=False)
            assert plan.steps and len(json.dumps(plan.to_dict())) <= 30_000, host.name
            assert len(watch(host.vars)["files"]) <= 60, host.name

    def test_what_is_usual_of_a_file_is_left_out_and_comes_back_where_files_are_written(self) -> None:
        for entry in make_plan("mac-01", mac.variables(128)).files:
            short = entry.to_json()
            assert None not in short.values() and short.get("owner") != "root"
            assert FileEntry.from_json(json.loads(json.dumps(short))) == entry

    def test_an_entry_is_read_by_a_program_that_read_nothing_before(self) -> None:
        shaped._reader.cache_clear()
        entry = FileEntry.from_json({"path": "/opt/ds4", "kind": "dir", "mode": "0755"})
        assert (entry.mode, entry.content) == ("0755", None)

    def test_a_script_is_named_by_its_checksum(self) -> None:
        for entry in make_plan("mac-01", mac.variables(128)).files:
            if entry.source not in (None, "ds4agent"):
                assert entry.content is None
                text = scripts.with_content(entry).content
                assert text is not None and text.startswith("#!/bin/sh") and sha256(text) == entry.sha256


class TestJump:
    def plan(self, seen: Mapping[str, Any] | None, targets: Targets | None = TARGETS) -> Any:
        return make_plan("mac-01", mac.variables(24, ds4_jump_to="hk-01"), seen, targets=targets)

    def test_its_tunnel_is_kept_once_it_has_its_key(self) -> None:
        without = self.plan(mac.bare(24))
        assert "com.ds4fleet.jump" not in {job.label for job in without.jobs}
        assert "it has no key for hk-01 yet, so it holds no tunnel; run fab jump" in without.warnings
        key = {jump.key_path("/opt/ds4"): {"kind": "file"}}
        having = self.plan(mac.bare(24, files=key))
        assert {job.label: job.state for job in having.jobs}["com.ds4fleet.jump"] == "started"
        assert having.jump == JumpPlan("hk-01", ["hk-01"], True)

    def test_where_its_targets_are_not_known_what_it_has_stays(self) -> None:
        made = self.plan(mac.bare(24), None)
        assert not [entry for entry in made.files if "jump" in entry.path]

    def test_a_mac_that_does_something_else_says_that_it_leads_nowhere(self) -> None:
        made = make_plan("mac-01", mac.variables(128, ds4_role="serve", ds4_jump_to="hk-01"))
        assert "ds4_jump_to has no effect where ds4_role is serve" in made.warnings
        assert {job.label: job.state for job in made.jobs}["com.ds4fleet.jump"] == "absent"

    def test_a_mac_of_any_size_that_is_to_lead_somewhere_does(self) -> None:
        assert make_plan("mac-01", mac.variables(128, ds4_jump_to="hk-01")).role == "jump"


def test_every_file_and_job_of_a_plan_is_read_back_from_its_json() -> None:
    file = FileEntry("/opt/ds4/x", "file", content="x", mode="0644", stage="storage")
    assert FileEntry.from_json(json.loads(json.dumps(file.to_json()))) == file
    job = Job("com.ds4fleet.x", "/Library/LaunchDaemons/x.plist", "loaded", ("/opt/ds4/x",), "service")
    assert Job.from_json(json.loads(json.dumps(dataclasses.asdict(job)))) == job
