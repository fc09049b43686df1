"""From a host's variables, what was observed on the Mac, and the catalogue, to the plan of that Mac. Pure.

`make_plan` decides role, model, mode, context, wired limit and disk, asks components.render for the files
and jobs that follow, and compares all of it with the observation: `steps` is the difference, [] means
converged. Refusals are sentences that say what is wrong and what to do; a plan with refusals is never
acted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ds4fleet import layout
from ds4fleet.catalogue.read import Catalogue, Engine, ModelFile, load
from ds4fleet.components import agent, jump, peer_fetch, render, switcher, watchdog
from ds4fleet.errors import OperatorError
from ds4fleet.inventory import defaults, names
from ds4fleet.plan import accounts, sources
from ds4fleet.plan.asked import Reader, asked, numbers
from ds4fleet.plan.steps import differences, steps
from ds4fleet.plan.types import (
    AccountsPlan,
    EnginePlan,
    GroupPlan,
    HostPlan,
    ModelChoice,
    UserPlan,
    VerifyPlan,
    WeightFile,
    WeightsPlan,
    stages_of,
)
from ds4fleet.sizing import policy, speed, types
from ds4fleet.sizing import verdict as sizing_verdict
from ds4fleet.sizing.disk import Disk, beside_what_is_there, plan_disk
from ds4fleet.sizing.estimate import MIB
from ds4fleet.sizing.types import Mac, Request, Verdict

#: The service account must not log in; the tunnel account needs a shell for sshd's ForceCommand to run in.
NO_SHELL = "/usr/bin/false"
TUNNEL_SHELL = "/bin/sh"
#: Ids above it mean nobody.
LAST_UID = 2**31 - 2


def watch(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ds4_info for a host: every path, user and label that any plan for it can need.

    The plan from the declared hardware is looked at too, beside what any plan may leave behind. Malformed
    variables are not judged here.
    """
    settings = {**defaults.role_defaults(), **variables}
    declared = make_plan("", variables)
    paths = layout.Paths(str(settings["ds4_root"]))
    known, guarded = render.watched(settings), watchdog.watched(paths.root)
    switched = switcher.watched(paths.root)
    jumping = jump.watched(paths.root)
    staged = peer_fetch.watched(paths.root)
    programs = agent.watched(paths.root)
    users = [str(settings[f"ds4_{account}_user"]) for account in ("service", "tunnel", "seed")]
    port = settings["ds4_port"]
    return {
        "files": _once(
            known["files"],
            programs["files"],
            guarded["files"],
            switched["files"],
            jumping["files"],
            staged["files"],
            (entry["path"] for entry in declared.files),
        ),
        "labels": _once(
            known["labels"],
            guarded["labels"],
            switched["labels"],
            jumping["labels"],
            staged["labels"],
            (job["label"] for job in declared.jobs),
        ),
        "users": users,
        "groups": users,
        "engine_root": paths.engine,
        "switch_dir": switcher.folder(paths.root),
        "models_dir": paths.models,
        "port": int(port) if str(port).isdigit() else 0,
        "running_config": paths.running_config,
    }


def make_plan(
    host: str,
    variables: Mapping[str, Any],
    observation: Mapping[str, Any] | None = None,
    catalogue: Catalogue | None = None,
    *,
    region: str = "",
    templated: bool = True,
) -> HostPlan:
    """The plan of `host`.

    variables: the host's inventory variables, templated; the role's defaults fill the gaps. observation: what
    ds4_info returned; None, or {bare: true}, plans from `ds4_hardware` alone. catalogue: default, the
    built-in one with the files of `ds4_catalogue`. templated: False for variables as the inventory has them:
    a template in a name is not judged then. Never raises for what an inventory can say: that
    becomes a refusal.
    """
    settings = {**defaults.role_defaults(), **variables}
    plan = HostPlan(
        host=host,
        region=region or str(settings.get("ds4_region") or ""),
        role="serve",
        mode="none",
        model=None,
        context=0,
        generation="",
    )
    seen = None if observation is None or observation.get("bare") else observation
    wrong = names.mistakes(settings, host=host, templated=templated)
    if wrong:
        plan.refusals += [_of_host(host, sentence) for sentence in wrong]
        return plan
    try:
        _Planner(plan, settings, seen, catalogue).run()
    except OperatorError as error:
        plan.refusals.append(_of_host(host, error.sentence))
    if plan.refusals:
        plan.steps, plan.stages = [], []
    return plan


class _Planner:
    def __init__(
        self,
        plan: HostPlan,
        settings: Mapping[str, Any],
        seen: Mapping[str, Any] | None,
        catalogue: Catalogue | None,
    ) -> None:
        self.plan = plan
        self.vars = settings
        self.seen = seen
        self.given = catalogue
        self.read = Reader(settings)
        self.paths = layout.Paths(str(settings["ds4_root"]))

    def run(self) -> None:
        plan = self.plan
        self.catalogue = self.given or load(self.read.names("ds4_catalogue"))
        self.declared = self.read.mapping("ds4_hardware")
        self.asked = asked(self.read)
        self._kv_wear()
        self._address()
        self.mac = self._mac()
        plan.differences.extend(differences(self.declared, self.seen))
        self._system()
        engine = self._engine()
        verdict = self._role_and_model(engine)
        self._memory(verdict, engine)
        self._weights(engine)
        disk = self._disk()
        plan.accounts = self._accounts()
        plan.power = dict(self.read.mapping("ds4_power"))
        self._speed()
        if plan.refusals:
            return
        desired = render.desired(plan.to_dict(), {**self.vars, **numbers(self.read, self.asked)})
        plan.files, plan.jobs, plan.server = desired["files"], desired["jobs"], desired["server"]
        if plan.server is not None:
            plan.files += agent.entries(self.paths.root)
        for part in (watchdog, switcher):
            files, jobs = part.entries(self.paths.root, plan.server is not None)
            plan.files += files
            plan.jobs += jobs
        for flag in desired.get("dropped_flags", ()):
            plan.warnings.append(f"this engine has no {flag}; the setting has no effect")
        self._verify()
        self._port()
        plan.steps = steps(plan, self.seen, disk)
        plan.stages = stages_of(plan.steps)
        self._can_come(disk)

    # --- what there is ---

    def _address(self) -> None:
        if self.asked.host not in ("127.0.0.1", "localhost", "0.0.0.0"):
            self.plan.warnings.append(
                f"the engine listens on {self.asked.host} alone: tunnels and fab status ask at"
                " 127.0.0.1 and do not reach it"
            )

    def _kv_wear(self) -> None:
        rules = policy.policy()["kv"]
        if self.asked.kv_budget_mib > rules["storm_above_mib"]:
            self.plan.warnings.append(
                f"a KV budget of {self.asked.kv_budget_mib:,} MiB wears the SSD ({rules['why']}):"
                f" keep it at or below {rules['storm_above_mib']:,}"
            )

    def _mac(self) -> Mac:
        declared = self.declared
        live = (self.seen or {}).get("memory") or {}
        size = ((self.seen or {}).get("hardware") or {}).get("memsize_bytes")
        if not size:
            gigabytes = declared.get("memory_gb")
            if not isinstance(gigabytes, int) or gigabytes <= 0:
                raise OperatorError(
                    "its memory is not known: declare ds4_hardware (memory_gb) or let the Mac be observed"
                )
            size = gigabytes << 30
        return Mac(
            memory_mib=size // MIB,
            stock_limit_mib=live.get("stock_limit_mib"),
            wired_limit_mib=live.get("wired_limit_mib"),
            desktop=self.asked.desktop,
            other_metal=tuple((self.seen or {}).get("other_metal") or ()),
            name=self.plan.host,
        )

    def _system(self) -> None:
        """What must be so before any of our work makes sense."""
        seen, plan = self.seen, self.plan
        if seen is None:
            return
        tools = seen.get("toolchain") or {}
        if tools.get("ok") is False:
            plan.refusals.append(
                f"{plan.host}: the Command Line Tools are missing;"
                f" run playbooks/bootstrap.yml -l {plan.host} first"
            )
        if seen.get("filevault") == "on":
            plan.warnings.append(
                "FileVault is on: after a reboot nothing runs until somebody types the password at the Mac"
            )
        held = (seen.get("files") or {}).get(watchdog.stopped_path(self.paths.root)) or {}
        if held.get("kind") == "file":
            plan.warnings.append(
                "the guard has stopped the engine for lack of memory;"
                f" {watchdog.stopped_path(self.paths.root)} says when and why"
            )
        if (seen.get("macos") or {}).get("arch") not in (None, "arm64"):
            plan.refusals.append(f"{plan.host}: this is not an Apple Silicon Mac; ds4 needs one")

    def _engine(self) -> Engine:
        plan, variables = self.plan, self.vars
        pinned = str(variables["ds4_engine_commit"]).strip().lower()
        engine = self.catalogue.engine(pinned)
        release = self._release(engine.commit)
        flags: Sequence[str] = ()
        if release:
            engine = replace(engine, commit=str(release.get("commit") or engine.commit))
            flags = ((release.get("capabilities") or {}).get("flags")) or ()
        if engine.known_bad:
            plan.refusals.append(
                f"{plan.host}: engine commit {pinned[:12]} is known to be bad ({engine.note}); pin another"
            )
        if flags:
            generation = self.catalogue.generation_of_flags(flags)
            if not engine.known:
                engine = replace(engine, generation=generation)
        elif not engine.known:
            plan.warnings.append(
                f"engine commit {pinned[:12]} is not in the catalogue;"
                f" planned as {engine.generation} until it is built"
            )
        plan.generation = engine.generation
        traits = self.catalogue.generation(engine.generation)
        plan.engine = EnginePlan(
            commit=engine.commit,
            pinned=engine.pinned,
            release_id=engine.commit[:12],
            repo=str(variables["ds4_engine_repo"]),
            root=self.paths.engine,
            releases_dir=f"{self.paths.engine}/releases",
            mirror=f"{self.paths.engine}/mirror.git",
            current=f"{self.paths.engine}/current",
            make_args=list(self.read.names("ds4_engine_make_args")),
            keep=self.read.number("ds4_engine_keep", least=1),
            flags=sorted(set(engine.flags or traits.flags)),
            capabilities=(release or {}).get("capabilities"),
            payload_abi=traits.payload_abi,
            drain_s=traits.drain_s,
        )
        return replace(engine, flags=tuple(flags) or engine.flags)

    def _release(self, commit: str) -> Mapping[str, Any] | None:
        for release in ((self.seen or {}).get("engine") or {}).get("releases") or ():
            known = str(release.get("commit") or "")
            if release.get("complete") and known and (known.startswith(commit) or commit.startswith(known)):
                found: Mapping[str, Any] = release
                return found
        return None

    # --- what is decided ---

    def _role_and_model(self, engine: Engine) -> Verdict | None:
        plan, asked = self.plan, self.asked
        role = asked.role
        gigabytes = self.mac.memory_gb
        if role == "auto" and asked.mode == "streaming":
            role = "stream"
        if role == "auto" and asked.mode == "auto" and gigabytes <= policy.policy()["roles"]["jump_up_to_gb"]:
            role = "jump"
        if role == "stream" and asked.mode == "resident":
            raise OperatorError("ds4_role stream and ds4_mode resident exclude each other; drop one of them")
        if role == "serve" and asked.mode == "streaming":
            role = "stream"
        plan.role = "serve" if role == "auto" else role
        if role == "jump":
            plan.jump = {"to": str(self.vars.get("ds4_jump_to") or "") or None}
            if plan.jump["to"] is None:
                plan.warnings.append(
                    "a jump Mac without ds4_jump_to holds no tunnel; name the Mac that serves"
                )
            return None
        if role == "stage":
            self._choose(self._auto_models(engine)[-1] if asked.model == "auto" else asked.model)
            return None
        candidates = self._auto_models(engine) if asked.model == "auto" else [asked.model]
        verdicts = [
            self._verdict(model, engine, "streaming" if role == "stream" else asked.mode)
            for model in candidates
        ]
        verdict = next((one for one in verdicts if one.outcome != types.REFUSED), verdicts[0])
        self._choose(verdict.model)
        if verdict.outcome == types.STAGE and role == "auto":
            plan.role = "stage"
            return verdict
        plan.role = "stream" if verdict.outcome == types.STREAMS or role == "stream" else "serve"
        if verdict.outcome in (types.REFUSED, types.STAGE):
            reasons = verdict.why or "it does not fit"
            sentence = f"{plan.host}: {reasons.rstrip('.')}"
            plan.refusals.append(f"{sentence}; to do: {verdict.fix}.")
        return verdict

    def _auto_models(self, engine: Engine) -> list[str]:
        """What `ds4_model: auto` tries, best first: the model of this size, then those of smaller Macs."""
        families = self.catalogue.generation(engine.generation).families
        rows = policy.policy()["roles"]["models"]
        reaching = [row["model"] for row in rows if row["up_to_gb"] < self.mac.memory_gb]
        reaching.append(policy.step(rows, self.mac.memory_gb)["model"])
        usable = [name for name in reaching if self.catalogue.model(name).family in families]
        return list(reversed(usable))

    def _verdict(self, model: str, engine: Engine, mode: str) -> Verdict:
        asked = self.asked
        request = Request(
            model=model,
            ctx=asked.context,
            mode=mode,
            sessions=asked.sessions,
            generation=engine.generation,
            prefill_chunk=asked.prefill_chunk,
            sidecar=asked.sidecars[0] if asked.sidecars else None,
            wired_limit_mib=asked.wired_limit_mib,
            override=asked.override,
            flags=engine.flags or None,
        )
        return sizing_verdict.verdict(self.mac, request, catalogue=self.catalogue)

    def _choose(self, model_id: str) -> None:
        model = self.catalogue.model(model_id)
        self.plan.model = ModelChoice(model.id, model.name, model.family, model.quant)
        if model.superseded_by:
            self.plan.warnings.append(
                f"{model.id} was replaced upstream by {model.superseded_by} (same size)"
            )

    def _memory(self, verdict: Verdict | None, engine: Engine) -> None:
        plan = self.plan
        live = (self.seen or {}).get("memory") or {}
        known = {
            "wired_limit_mib": 0,
            "live_wired_limit_mib": live.get("wired_limit_mib"),
            "stock_limit_mib": live.get("stock_limit_mib"),
            "memory_mib": self.mac.memory_mib,
            "override": self.asked.override,
            "sentence": plan.role,
            "outcome": plan.role,
            "streaming": None,
        }
        if verdict is not None:
            data = verdict.to_dict()
            data["reasons"] = [reason.text for reason in verdict.reasons]
            data["warnings"] = list(verdict.warnings)
            plan.warnings.extend(verdict.warnings)
            known.update(data)
        plan.memory = known
        if verdict is not None and plan.role in ("serve", "stream"):
            plan.mode = verdict.mode
            plan.context = verdict.context
            self._context_change()
            think_max = policy.policy()["context"]["think_max"]
            if self.asked.context and verdict.context < think_max <= verdict.largest_context:
                plan.warnings.append(
                    f"Think-Max needs a context of {think_max:,}; below it max is plain high"
                )
            if engine.generation < "2026-07" and self.asked.sessions > 1:
                plan.refusals.append(
                    f"{plan.host}: ds4_sessions {self.asked.sessions} needs --batched-session, which engines"
                    " before July 2026 lack; set it to 1 or pin a newer engine"
                )

    def _context_change(self) -> None:
        """A smaller context than the running one voids KV checkpoints and surprises clients: say so."""
        models = ((self.seen or {}).get("server") or {}).get("models") or {}
        live = next((one.get("context_length") for one in models.get("data") or ()), None)
        if isinstance(live, int) and live > self.plan.context:
            self.plan.warnings.append(
                f"the context goes from {live:,} to {self.plan.context:,};"
                " checkpoints of the larger one no longer load"
            )

    # --- what follows ---

    def _weights(self, engine: Engine) -> None:
        plan, variables = self.plan, self.vars
        if plan.model is None:
            return
        model = self.catalogue.model(plan.model.id)
        endpoints = self.read.names("ds4_weights_sources")
        sources.check(endpoints)
        files = [self._weight_file(file, model.header, endpoints) for file in model.files]
        for name in self.asked.sidecars:
            files += [self._weight_file(file, {}, endpoints) for file in self.catalogue.sidecar(name).files]
        method = str(variables["ds4_weights_method"])
        if method not in ("direct", "upstream"):
            raise OperatorError(f"ds4_weights_method is {method!r}; it must be direct or upstream")
        target = model.targets.get(engine.generation)
        if method == "upstream" and target is None:
            raise OperatorError(
                f"download_model.sh of a {engine.generation} engine has no target for {model.id};"
                " set ds4_weights_method: direct"
            )
        main = next((file.path for file in files if file.kind == "model"), None)
        assert plan.engine is not None
        link = None
        if main is not None:
            release = f"{plan.engine.releases_dir}/{plan.engine.release_id}"
            link = {"path": f"{release}/ds4flash.gguf", "target": main}
        plan.weights = WeightsPlan(self.paths.models, files, main, link, target)

    def _weight_file(
        self, file: ModelFile, header: Mapping[str, Any], endpoints: Sequence[str]
    ) -> WeightFile:
        if file.transfer_sha256 is None:
            # KV checkpoints, upgrades and the way back tell what is served apart by its sha256.
            if file.kind == "model":
                raise OperatorError(
                    f"no sha256 is known for {file.name}, so it could not be proven;"
                    " add it in a file of your own under ds4_catalogue"
                )
            self.plan.warnings.append(
                f"no sha256 is published for {file.name}: it is proven by its size and GGUF header only"
            )
        return WeightFile(
            name=file.name,
            path=f"{self.paths.models}/{file.name}",
            bytes=file.transfer_bytes,
            sha256=file.transfer_sha256,
            real_bytes=file.bytes,
            urls=file.urls(endpoints),
            kind=file.kind,
            header=dict(header),
        )

    def _disk(self) -> Disk | None:
        plan = self.plan
        if plan.weights is None:
            return None
        disk = plan_disk(
            host=plan.host,
            settings=self.vars,
            observation=self.seen,
            now_bytes=sum(file.real_bytes for file in plan.weights.files),
            kv_budget_mib=self.asked.kv_budget_mib if plan.role in ("serve", "stream") else 0,
            models_dir=self.paths.models,
            kv_dir=self.paths.kv,
        )
        plan.volumes = disk.volumes
        plan.refusals.extend(_of_host(plan.host, text) for text in disk.refusals)
        plan.warnings.extend(disk.warnings)
        plan.disk = disk.to_dict()
        return disk

    def _can_come(self, disk: Disk | None) -> None:
        """Weights that are to be fetched: whether they are where they are to come from, and fit in."""
        plan, weights = self.plan, (self.seen or {}).get("weights") or {}
        if plan.weights is None or disk is None or "weights" not in plan.stages:
            return
        present = {file["path"] for file in weights.get("files") or ()}
        lacking = [file for file in plan.weights.files if file.path not in present]
        endpoints = self.read.names("ds4_weights_sources")
        need = sum(
            file.real_bytes * max(0, file.bytes - _there(file, weights)) // file.bytes for file in lacking
        )
        no_room = beside_what_is_there(disk, self.seen, need)
        sentences = [*sources.objections(lacking, endpoints), *([no_room] if no_room else [])]
        plan.refusals.extend(_of_host(plan.host, text) for text in sentences)

    def _accounts(self) -> AccountsPlan:
        settings, role = self.vars, self.plan.role
        service, tunnel = str(settings["ds4_service_user"]), str(settings["ds4_tunnel_user"])
        uid = self.read.auto_int("ds4_service_uid", least=1, most=LAST_UID)
        self.plan.refusals += accounts.objections(self.plan.host, settings, uid, self.seen)
        users, groups = [], []
        wanted = [(service, accounts.REAL_NAMES["service"], NO_SHELL, uid)] if role != "jump" else []
        if role != "stage":
            wanted.append((tunnel, accounts.REAL_NAMES["tunnel"], TUNNEL_SHELL, None))
        for name, real_name, shell, number in wanted:
            groups.append(GroupPlan(name, number))
            users.append(UserPlan(name, number, name, accounts.NO_HOME, shell, real_name, True))
        return AccountsPlan(users, groups)

    def _speed(self) -> None:
        plan = self.plan
        if plan.model is None or plan.role not in ("serve", "stream"):
            return
        declared = self.declared
        chip = str(((self.seen or {}).get("hardware") or {}).get("chip") or declared.get("chip") or "")
        found = speed.expected(chip, plan.model.family, plan.model.quant, plan.generation, plan.mode)
        if found is not None:
            plan.speed = found.to_dict()
            return
        streaming = plan.memory.get("streaming") or {}
        if streaming.get("decode_tps"):
            low, high = streaming["decode_tps"]
            plan.speed = {
                "decode_tps": (low, high),
                "prefill_tps": streaming["prefill_tps"],
                "sources": (streaming["speed_source"],),
                "same_generation": False,
                "text": f"{low:g}-{high:g}",
                "published_elsewhere": True,
            }

    def _verify(self) -> None:
        plan = self.plan
        if plan.role not in ("serve", "stream") or plan.model is None:
            return
        address = "127.0.0.1" if self.asked.host in ("localhost", "0.0.0.0") else self.asked.host
        read = self.read
        plan.verify = VerifyPlan(
            url=f"http://{address}:{self.asked.port}",
            model_name=self.catalogue.families[plan.model.family].model_name,
            context=plan.context,
            prompt=read.text("ds4_verify_prompt"),
            expect=read.text("ds4_verify_expect") or None,
            ready_s=read.number("ds4_verify_ready_s", least=1),
            headroom_mib=read.number("ds4_min_headroom_mib", least=0),
        )

    def _port(self) -> None:
        """Somebody else on our port: the engine would find out only after loading everything."""
        plan, seen = self.plan, self.seen
        if seen is None or plan.server is None:
            return
        ours = {(job or {}).get("pid") for job in (seen.get("jobs") or {}).values()} - {None}
        for listener in (seen.get("server") or {}).get("listening") or ():
            if listener.get("port") == self.asked.port and listener.get("pid") not in ours:
                plan.refusals.append(
                    f"{plan.host}: port {self.asked.port} is in use by {listener.get('command')} (pid"
                    f" {listener.get('pid')}); stop it or set another ds4_port"
                )
                return


def _there(file: WeightFile, weights: Mapping[str, Any]) -> int:
    """Bytes of a file that need no new room: its part goes on, a wrong copy that was kept gives way."""
    parts, aside = weights.get("parts") or (), weights.get("aside") or ()
    begun = [int(part["size_bytes"]) for part in parts if part["path"].startswith(f"{file.path}.part")]
    wrong = [int(one["size_bytes"]) for one in aside if one["path"].startswith(f"{file.path}.")]
    return max([0, *begun]) + sum(wrong)


def _once(*parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(parts)))


def _of_host(host: str, sentence: str) -> str:
    return sentence if sentence.startswith(f"{host}: ") else f"{host}: {sentence}"
