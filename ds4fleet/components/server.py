"""The server's job: its configuration, what starts it, and where it keeps its state. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ds4agent.mac import accounts
from ds4fleet.components import base, command_line, scripts
from ds4fleet.components.base import (
    Decided,
    EnginePlan,
    Named,
    Part,
    Removed,
    Seen,
    Step,
    UserPlan,
    Watched,
    WeightsPlan,
)
from ds4fleet.components.shapes import ServerPlan
from ds4fleet.layout import Paths

JOB = "server"
STAGE = "service"
#: The service account must not log in.
NO_SHELL = "/usr/bin/false"
#: Enough for the test prompt; a larger context only costs memory.
SMOKE_CONTEXT = 4096
SMOKE_TOKENS = 16
#: A daemon's soft limit is taken to be 256 descriptors (from memory, no recording); each client and each KV
#: file of the engine takes one.
OPEN_FILES = 4096
#: What the modules that prove the server and make its account note until the Mac restarts.
NOTED = ("/var/run/ds4-verify.json", "/var/run/ds4-user.lock")


def watched(paths: Paths, named: Named) -> Watched:
    folders = (paths.root, paths.libexec, paths.etc, paths.run, f"{paths.run}/tmp", paths.var, paths.logs)
    label = paths.label(JOB)
    files = (paths.running_config, paths.log, paths.config, paths.start, paths.plist(label))
    kept = (f"{paths.kv}/{name}" for name in named.kv)
    return Watched((*folders, *files, *kept), (label,))


def entries(plan: Decided) -> Part:
    """Raises OperatorError for settings that contradict each other or that the engine cannot take."""
    user = plan.settings.service_user
    users = [_account(user, plan.service_uid)] if plan.role != "jump" else []
    paths, label = plan.paths, plan.paths.label(JOB)
    if not plan.serves or plan.engine is None or plan.weights is None:
        part = base.absent(label, paths.config, stage=STAGE)
        return Part(part.files, part.jobs, users)
    server, dropped = _server(plan, plan.engine, plan.weights)
    plist = _plist(paths, user, server)
    config = _config(plan, plan.engine, plan.weights, server, plist)
    files = [
        *(base.folder(path, stage=STAGE) for path in (paths.root, paths.libexec, paths.etc)),
        base.folder(paths.run, stage=STAGE, owner=user),
        base.folder(f"{paths.run}/tmp", stage=STAGE, owner=user, mode="0700"),
        base.folder(paths.var, stage=STAGE),
        base.file(paths.running_config, None, stage=STAGE, owner=user),
        base.folder(paths.logs, stage=STAGE),
        base.file(paths.log, None, stage=STAGE, owner=user, mode="0640"),
    ]
    if server.kv_dir:
        files.append(base.folder(server.kv_dir, stage=STAGE, owner=user, mode="0700"))
    files += [
        scripts.entry(paths.start, paths.root, stage=STAGE),
        base.file(paths.plist(label), plist, stage=STAGE, validate="plist"),
        base.file(paths.config, config, stage=STAGE),
    ]
    restart_on = [paths.plist(label), paths.start, paths.config]
    jobs = [base.job(label, "started", restart_on, stage=STAGE)]
    said = [f"this engine has no {flag}; the setting has no effect" for flag in dropped]
    return Part(files, jobs, users, replace(server, config_sha256=base.sha256(config)), said)


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def stale(server: ServerPlan | None, seen: Seen) -> bool:
    """Whether a server runs there with another configuration than `server`, that of the plan."""
    if server is None or seen is None:
        return False
    job = seen.jobs.get(server.label)
    loaded = job is not None and bool(job.loaded)
    return loaded and seen.server.running_config_sha256 != server.config_sha256


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(
        labels=(paths.label(JOB),),
        files=(paths.root, paths.plist(paths.label(JOB))),
        trees=(paths.run, paths.libexec, paths.etc, paths.var),
        notes=NOTED,
        data=(paths.logs,),
        users=(str(settings["ds4_service_user"]),),
    )


def _account(name: str, uid: int | None) -> UserPlan:
    real_name = accounts.REAL_NAMES["service"]
    return UserPlan(name, uid, name, accounts.NO_HOME, NO_SHELL, real_name, hidden=True)


def _server(plan: Decided, engine: EnginePlan, weights: WeightsPlan) -> tuple[ServerPlan, list[str]]:
    """What runs, and the flags that this engine lacks."""
    settings, paths = plan.settings, plan.paths
    flags = command_line.flags_of(engine)
    identity = _kv_identity(plan, engine, weights)
    kv_dir = f"{paths.kv}/{identity}" if settings.kv_budget_mib and identity else ""
    planned = command_line.planned(plan, weights, flags, kv_dir)
    argv = [f"{engine.release_dir}/ds4-server"]
    argv += [word for words in planned if words[0] in flags for word in words]
    argv += command_line.extra(plan, engine, flags)
    timeout = settings.exit_timeout_s
    server = ServerPlan(
        label=paths.label(JOB),
        argv=tuple(argv),
        smoke_argv=_smoke(plan, engine, weights, argv),
        env={"HOME": paths.run, "TMPDIR": f"{paths.run}/tmp", "DS4_LOCK_FILE": paths.lock},
        cwd=engine.current,
        host=settings.listen_address,
        port=settings.port,
        lock_file=paths.lock,
        kv_dir=kv_dir,
        kv_identity=identity,
        config_path=paths.config,
        running_config=paths.running_config,
        exit_timeout_s=engine.drain_s if timeout is None else timeout,
        throttle_s=settings.throttle_s,
        log_path=paths.log,
    )
    return server, [words[0] for words in planned if words[0] not in flags]


def _smoke(plan: Decided, engine: EnginePlan, weights: WeightsPlan, argv: Sequence[str]) -> tuple[str, ...]:
    """The same weights and mode by the command line tool, with a small context, before the server starts."""
    smoke = [f"{engine.release_dir}/ds4", "--model", str(weights.main), "--ctx", str(SMOKE_CONTEXT)]
    smoke += [flag for flag in ("--ssd-streaming",) if flag in argv]
    return (
        *smoke, "--nothink", "--temp", "0", "-n", str(SMOKE_TOKENS), "-p", plan.settings.verify_prompt,
    )  # fmt: skip


def _kv_identity(plan: Decided, engine: EnginePlan, weights: WeightsPlan) -> str:
    """Names the KV directory by weights and form of the entries: the engine takes others' for its own."""
    main = next((item for item in weights.files if item.kind == "model"), None)
    if main is None or main.sha256 is None or plan.model is None:
        return ""
    return kv_name(plan.model.family, main.sha256, engine.payload_abi)


def kv_name(family: str, sha256: str, payload_abi: int) -> str:
    """The name of the directory with KV entries of such weights and such a form."""
    return f"{family}-{sha256[:12]}" + (f"-abi{payload_abi}" if payload_abi else "")


def _plist(paths: Paths, user: str, server: ServerPlan) -> str:
    return base.plist_text(
        server.label,
        UserName=user,
        GroupName=user,
        ProgramArguments=[paths.start],
        WorkingDirectory=server.cwd,
        EnvironmentVariables=server.env,
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ThrottleInterval=server.throttle_s,
        ExitTimeOut=server.exit_timeout_s,
        ProcessType="Interactive",
        StandardOutPath=paths.log,
        StandardErrorPath=paths.log,
        SoftResourceLimits={"NumberOfFiles": OPEN_FILES},
        HardResourceLimits={"NumberOfFiles": OPEN_FILES},
    )


def _config(plan: Decided, engine: EnginePlan, weights: WeightsPlan, server: ServerPlan, plist: str) -> str:
    """server.conf. It names what starts the server as well: one hash then says what runs."""
    return scripts.template(
        "server.conf.j2",
        made_from=base.sha256(plist + scripts.text("ds4-start", plan.paths.root)),
        release_id=engine.release_id,
        release_dir=engine.release_dir,
        weights=[item for item in weights.files if item.kind != "split"],
        mounts=[volume.mount_point for volume in plan.volumes],
        kv_dir=server.kv_dir,
        wired_limit_mib=plan.wired_limit_mib,
        host=server.host,
        port=server.port,
        # Longer than the throttle: launchd lets a job that ends sooner wait longer each time.
        wait_s=max(plan.settings.start_wait_s, server.throttle_s),
        arguments=server.argv[1:],
    )
