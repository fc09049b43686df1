"""What a Mac's plan means in files, launchd jobs and the server's command line; pure, no Mac needed.

`desired` is called by the planner with the plan as far as it is made (model, memory, volumes, engine,
weights) and returns the rest of it. The texts come from the templates of the role, where Ansible users look.
"""

from __future__ import annotations

import hashlib
import plistlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from ds4fleet.access import users
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.layout import LABEL_LOGS, LABEL_MOUNTS, LABEL_SERVER, LABEL_WIRED, RELEASE_MARKER, ROLE, Paths

LABELS = (LABEL_SERVER, LABEL_MOUNTS, LABEL_WIRED, LABEL_LOGS)


#: Flags that ds4-server has had since May 2026 (`ds4-server --help` of 8d57664), as far as a plan uses them.
#: --chdir is left out: the July help does not list it, and launchd's WorkingDirectory does the same.
BASE_FLAGS = frozenset(
    [
        "--model",
        "--mtp",
        "--ctx",
        "--tokens",
        "--host",
        "--port",
        "--cors",
        "--kv-disk-dir",
        "--kv-disk-space-mb",
    ]
)

#: Flags that a variable decides, and with it what the plan reckons, refuses and proves: not for
#: ds4_server_extra_args, where the last one would win.
DECIDED_BY = {
    "--model": "ds4_model",
    "-m": "ds4_model",
    "--ctx": "ds4_context",
    "-c": "ds4_context",
    "--host": "ds4_host",
    "--port": "ds4_port",
    "--cors": "ds4_cors",
    "--kv-disk-dir": "ds4_kv_budget_mib",
    "--kv-disk-space-mb": "ds4_kv_budget_mib",
    "--batched-session": "ds4_sessions",
    "--prefill-chunk": "ds4_prefill_chunk",
    "--power": "ds4_power_percent",
    "--ssd-streaming": "ds4_mode",
    "--mtp": "ds4_sidecars",
    "--mtp-model": "ds4_sidecars",
    "--dspark": "ds4_sidecars",
}
#: Backends beside Metal: on macOS the CPU's can panic the kernel (upstream README, antirez/ds4#483).
OTHER_BACKENDS = ("--cpu", "--cuda", "--backend")

#: Enough for the test prompt; a larger context only costs memory.
SMOKE_CONTEXT = 4096
SMOKE_TOKENS = 16

#: A boot job tries for so long in one run, which is more than its throttle; a tool that hangs gets longer.
BOOT_TRY_S = 60
BOOT_HANG_S = 120
BOOT_THROTTLE_S = 10

#: A daemon's soft limit is taken to be 256 descriptors (from memory, no recording); each client and each KV
#: file of the engine takes one.
OPEN_FILES = 4096
#: A log above 10 MiB is put away (find counts blocks of 512 bytes); seven compressed copies are kept.
ROTATE_BLOCKS = 20480
ROTATE_SIZE_KB = 10240
ROTATE_KEEP = 7
#: Minutes of the hour: away from the half hours, at which macOS is said to run newsyslog (one source).
ROTATE_MINUTES = (11, 41)


def watched(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Paths and labels that any plan for this host may write: what `observe` has to look at."""
    paths = Paths(str(settings.get("ds4_root", Paths.root)))
    files = [
        paths.root,
        paths.etc,
        paths.libexec,
        paths.run,
        f"{paths.run}/tmp",
        paths.var,
        paths.running_config,
        paths.logs,
        paths.log,
        paths.archive_log,
        paths.config,
        paths.start,
        paths.mounts,
        paths.wired,
        paths.boot,
        paths.volumes,
        paths.boot_state("mounts"),
        paths.boot_state("wired"),
        paths.rotate,
        paths.tunnel_wait,
        paths.newsyslog,
        paths.sshd,
        paths.tunnel_keys,
        *(paths.plist(label) for label in LABELS),
    ]
    return {"files": files, "labels": list(LABELS)}


def desired(plan: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Files, jobs and server of a host.

    plan: HostPlan as a dict; read are host, role, mode, context, generation, memory.wired_limit_mib,
    volumes, model, weights and engine (release_id, releases_dir, current, and `capabilities.flags` of the
    built release, else the `flags` that the catalogue expects of the commit).
    settings: the host's variables; the role's defaults fill gaps.

    Returns {files: [...], jobs: [...], server: {...}|None, dropped_flags: [...]}. An entry of files has
    {path, kind, content, target, owner, group, mode, validate, stage}; kind is file, dir, link or absent,
    and a file whose content is None must exist while its content is not ours (logs). Directories come before
    what is in them. An entry of jobs has {label, plist, state, restart_on, stage}. dropped_flags names
    settings that the engine has no flag for, so that they have no effect.
    Raises OperatorError for settings that contradict each other or that the engine cannot take.
    """
    values = {**role_defaults(), **settings}
    return _Renderer(plan, values).result()


class _Renderer:
    def __init__(self, plan: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.plan = plan
        self.settings = settings
        self.paths = Paths(settings["ds4_root"])
        self.user = str(settings["ds4_service_user"])
        self.port = int(settings["ds4_port"])
        self.files: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.dropped: list[str] = []
        self.serves = plan.get("role") in ("serve", "stream") and plan.get("mode") != "none"

    def result(self) -> dict[str, Any]:
        self._storage()
        self._memory()
        server = self._service()
        self._tunnel()
        return {"files": self.files, "jobs": self.jobs, "server": server, "dropped_flags": self.dropped}

    # Stages, in the order in which they run.

    def _storage(self) -> None:
        mounts = self._mounts()
        self._dir(self.paths.root, "storage")
        self._dir(self.paths.libexec, "storage")
        self._dir(self.paths.boot, "storage")
        if not mounts:
            self._absent(LABEL_MOUNTS, "storage", self.paths.mounts, self.paths.volumes)
            return
        self._boot_job(LABEL_MOUNTS, "storage", "mounts", self.paths.mounts)

    def _memory(self) -> None:
        limit_mib = self._wired_limit_mib()
        if not limit_mib:
            self._absent(LABEL_WIRED, "memory", self.paths.wired)
            return
        self._boot_job(LABEL_WIRED, "memory", "wired", self.paths.wired, str(limit_mib))

    def _boot_job(self, label: str, stage: str, name: str, program: str, *arguments: str) -> None:
        """A script that launchd starts at boot, and again until it has done its work."""
        script = template(f"ds4-{name}.j2", paths=self.paths, job=name, try_s=BOOT_TRY_S, hang_s=BOOT_HANG_S)
        self._file(program, script, stage, mode="0755")
        self._plist(
            label,
            stage,
            ProgramArguments=[program, *arguments],
            RunAtLoad=True,
            KeepAlive={"SuccessfulExit": False},
            ThrottleInterval=BOOT_THROTTLE_S,
            ExitTimeOut=10,
            StandardErrorPath=f"/var/log/ds4-{name}.log",
            StandardOutPath=f"/var/log/ds4-{name}.log",
        )
        self._job(label, "loaded", [self.paths.plist(label), program], stage)

    def _service(self) -> dict[str, Any] | None:
        link = (self.plan.get("weights") or {}).get("link")
        if link:
            self._entry(link["path"], "link", "service", target=link["target"])
        if not self.serves:
            self._absent(LABEL_SERVER, "service", self.paths.config)
            self._absent(LABEL_LOGS, "service", self.paths.newsyslog)
            return None
        paths, user = self.paths, self.user
        server = self._server()
        self._dir(paths.etc, "service")
        self._dir(paths.run, "service", owner=user, group=user, mode="0755")
        self._dir(f"{paths.run}/tmp", "service", owner=user, group=user, mode="0700")
        self._dir(paths.var, "service")
        self._file(paths.running_config, None, "service", owner=user, group=user, mode="0644")
        self._dir(paths.logs, "service")
        self._file(paths.log, None, "service", owner=user, group=user, mode="0640")
        if server["kv_dir"]:
            self._dir(server["kv_dir"], "service", owner=user, group=user, mode="0700")

        start = template("ds4-start.j2", paths=paths, release_marker=RELEASE_MARKER)
        self._file(paths.start, start, "service", mode="0755")
        plist = self._plist(
            LABEL_SERVER,
            "service",
            UserName=user,
            GroupName=user,
            ProgramArguments=[paths.start],
            WorkingDirectory=server["cwd"],
            EnvironmentVariables=server["env"],
            RunAtLoad=True,
            KeepAlive={"SuccessfulExit": False},
            ThrottleInterval=server["throttle_s"],
            ExitTimeOut=server["exit_timeout_s"],
            ProcessType="Interactive",
            StandardOutPath=paths.log,
            StandardErrorPath=paths.log,
            SoftResourceLimits={"NumberOfFiles": OPEN_FILES},
            HardResourceLimits={"NumberOfFiles": OPEN_FILES},
        )
        self._log_rotation()

        # The configuration names what starts the server as well: one hash then says what runs.
        made_from = _sha256(plist + start)
        config = template(
            "server.conf.j2",
            made_from=made_from,
            release_id=self.plan["engine"]["release_id"],
            release_dir=self._release_dir(),
            weights=[item for item in self.plan["weights"]["files"] if item["kind"] != "split"],
            mounts=self._mounts(),
            kv_dir=server["kv_dir"],
            wired_limit_mib=self._wired_limit_mib(),
            host=server["host"],
            port=server["port"],
            # Longer than the throttle: launchd lets a job that ends sooner wait longer each time.
            wait_s=max(int(self.settings["ds4_start_wait_s"]), server["throttle_s"]),
            arguments=server["argv"][1:],
        )
        self._file(paths.config, config, "service")
        self._job(LABEL_SERVER, "started", [paths.plist(LABEL_SERVER), paths.start, paths.config], "service")
        return {**server, "config": config, "config_sha256": _sha256(config)}

    def _log_rotation(self) -> None:
        paths = self.paths
        script = template("ds4-rotate.j2", paths=paths, rotate_blocks=ROTATE_BLOCKS)
        self._file(paths.rotate, script, "service", mode="0755")
        self._file(
            paths.newsyslog,
            template(
                "newsyslog.conf.j2",
                paths=paths,
                user=self.user,
                group=self.user,
                keep=ROTATE_KEEP,
                size_kb=ROTATE_SIZE_KB,
            ),
            "service",
            validate="newsyslog",
        )
        self._plist(
            LABEL_LOGS,
            "service",
            UserName=self.user,
            GroupName=self.user,
            ProgramArguments=[paths.rotate],
            StartCalendarInterval=[{"Minute": minute} for minute in ROTATE_MINUTES],
            ExitTimeOut=10,
        )
        self._job(LABEL_LOGS, "loaded", [paths.plist(LABEL_LOGS)], "service")
        # newsyslog makes the next copy's place; ds4-rotate runs as the service user, who may not create it.
        self._file(paths.archive_log, None, "service", owner=self.user, group=self.user, mode="0640")

    def _tunnel(self) -> None:
        account = str(self.settings["ds4_tunnel_user"])
        keys = []
        for text in self.settings["ds4_tunnel_keys"]:
            try:
                keys.append(parse_key(str(text)).commented)
            except ValueError as error:
                raise OperatorError(
                    f"{self.plan['host']}: ds4_tunnel_keys holds an entry that is not one public key:"
                    f" {str(text)[:20]!r}: {error}",
                    exit_code=EXIT_USAGE,
                ) from None
        keys += users.keys_for(self.plan["host"], self.plan.get("region", ""), self.settings["ds4_access"])
        if self.plan.get("role") == "stage":
            for path in (self.paths.sshd, self.paths.tunnel_keys, self.paths.tunnel_wait):
                self._entry(path, "absent", "tunnel")
            return
        self._file(
            self.paths.tunnel_wait, template("ds4-tunnel-wait.j2", paths=self.paths), "tunnel", mode="0755"
        )
        self._file(self.paths.tunnel_keys, template("tunnel_keys.j2", keys=keys, port=self.port), "tunnel")
        drop_in = template(
            "sshd.conf.j2",
            user=account,
            port=self.port,
            keys_path=self.paths.tunnel_keys,
            wait_command=self.paths.tunnel_wait,
        )
        self._file(self.paths.sshd, drop_in, "tunnel", validate="sshd")

    # The server's command line and surroundings.

    def _server(self) -> dict[str, Any]:
        plan, settings, paths = self.plan, self.settings, self.paths
        host = str(settings["ds4_host"])
        flags = self._flags()
        budget_mib = int(settings["ds4_kv_budget_mib"])
        kv_identity = self._kv_identity()
        kv_dir = f"{paths.kv}/{kv_identity}" if budget_mib and kv_identity else ""
        argv = [f"{self._release_dir()}/ds4-server"]
        argv += [*self._arguments(flags, kv_dir), *self._own_arguments(flags)]

        # The same weights and mode by the command line tool, with a small context, before the server starts.
        smoke = [
            f"{self._release_dir()}/ds4",
            "--model",
            plan["weights"]["main"],
            "--ctx",
            str(SMOKE_CONTEXT),
        ]
        smoke += [flag for flag in ("--ssd-streaming",) if flag in argv]
        smoke += ["--nothink", "--temp", "0", "-n", str(SMOKE_TOKENS), "-p", settings["ds4_verify_prompt"]]

        timeout = settings["ds4_exit_timeout_s"]
        if timeout == "auto":
            timeout = plan["engine"]["drain_s"]
        return {
            "label": LABEL_SERVER,
            "argv": argv,
            "smoke_argv": smoke,
            "env": {"HOME": paths.run, "TMPDIR": f"{paths.run}/tmp", "DS4_LOCK_FILE": paths.lock},
            "cwd": plan["engine"]["current"],
            "host": host,
            "port": self.port,
            "lock_file": paths.lock,
            "kv_dir": kv_dir,
            "kv_identity": kv_identity,
            "config_path": paths.config,
            "running_config": paths.running_config,
            "exit_timeout_s": int(timeout),
            "throttle_s": int(settings["ds4_throttle_s"]),
            "log_path": paths.log,
        }

    def _arguments(self, flags: frozenset[str], kv_dir: str) -> list[str]:
        """What the plan says, in the flags that this engine has; the others are remembered as dropped."""
        plan, settings = self.plan, self.settings
        argv: list[str] = []

        def add(flag: str, *values: object) -> None:
            if flag in flags:
                argv.extend([flag, *(str(value) for value in values)])
            else:
                self.dropped.append(flag)

        add("--model", plan["weights"]["main"])
        add("--ctx", plan["context"])
        add("--host", settings["ds4_host"])
        add("--port", self.port)
        if kv_dir:
            add("--kv-disk-dir", kv_dir)
            add("--kv-disk-space-mb", int(settings["ds4_kv_budget_mib"]))
        if settings["ds4_sessions"] > 1:
            add("--batched-session", settings["ds4_sessions"])
        if settings["ds4_prefill_chunk"]:
            add("--prefill-chunk", settings["ds4_prefill_chunk"])
        if settings["ds4_power_percent"]:
            add("--power", settings["ds4_power_percent"])
        if plan["mode"] == "streaming":
            add("--ssd-streaming")
            cache = ((plan.get("memory") or {}).get("streaming") or {}).get("cache_flag")
            if cache:
                add("--ssd-streaming-cache-experts", cache)
        for item in plan["weights"]["files"]:
            if item["kind"] in ("mtp", "dspark"):
                # From August on --mtp is a switch and the file has a flag of its own.
                add("--mtp-model" if "--mtp-model" in flags else "--mtp", item["path"])
            if item["kind"] == "dspark":
                add("--dspark")
        if settings["ds4_cors"]:
            add("--cors")
        return argv

    def _own_arguments(self, flags: frozenset[str]) -> list[str]:
        """ds4_server_extra_args, checked. Raises OperatorError for a flag that this engine does not have, or
        that is not for them to give."""
        extra = [str(item) for item in self.settings["ds4_server_extra_args"]]
        for item in extra:
            flag = item.split("=", 1)[0]
            if flag in DECIDED_BY:
                raise OperatorError(
                    f"{self.plan['host']}: ds4_server_extra_args asks for {item}, which is for"
                    f" {DECIDED_BY[flag]} to say; set that",
                    exit_code=EXIT_USAGE,
                )
            if flag in OTHER_BACKENDS:
                raise OperatorError(
                    f"{self.plan['host']}: ds4_server_extra_args asks for {item}, but the engine serves by"
                    " Metal here: the CPU backend can panic the kernel; remove it",
                    exit_code=EXIT_USAGE,
                )
            if item.startswith("--") and flag not in flags:
                raise OperatorError(
                    f"{self.plan['host']}: ds4_server_extra_args asks for {item}, which ds4-server of commit"
                    f" {self.plan['engine']['release_id']} does not have; remove it or pin another commit",
                    exit_code=EXIT_USAGE,
                )
        if any("\n" in item for item in extra):
            raise OperatorError(
                f"{self.plan['host']}: ds4_server_extra_args holds a line break; one argument per entry",
                exit_code=EXIT_USAGE,
            )
        return extra

    def _flags(self) -> frozenset[str]:
        """What the built release has, else what the catalogue expects of the commit, else what all have."""
        engine = self.plan["engine"]
        found: Sequence[str] = (engine.get("capabilities") or {}).get("flags") or engine.get("flags") or ()
        return frozenset(found) if found else BASE_FLAGS

    def _kv_identity(self) -> str:
        """Names the KV directory by weights and form of the entries: the engine takes others' for its own."""
        abi = self.plan["engine"].get("payload_abi", 0)
        for item in self.plan["weights"]["files"]:
            if item["kind"] == "model":
                return f"{self.plan['model']['family']}-{item['sha256'][:12]}" + (f"-abi{abi}" if abi else "")
        return ""

    def _release_dir(self) -> str:
        engine = self.plan["engine"]
        return f"{engine['releases_dir']}/{engine['release_id']}"

    def _mounts(self) -> list[str]:
        return [volume["mount_point"] for volume in self.plan.get("volumes") or ()]

    def _wired_limit_mib(self) -> int:
        return int((self.plan.get("memory") or {}).get("wired_limit_mib") or 0)

    # Entries.

    def _entry(self, path: str, kind: str, stage: str, **extra: Any) -> None:
        entry = {
            "path": path,
            "kind": kind,
            "content": None,
            "target": None,
            "validate": None,
            "stage": stage,
        }
        self.files.append({**entry, "owner": "root", "group": "wheel", "mode": None, **extra})

    def _dir(
        self, path: str, stage: str, *, owner: str = "root", group: str = "wheel", mode: str = "0755"
    ) -> None:
        self._entry(path, "dir", stage, owner=owner, group=group, mode=mode)

    def _file(
        self,
        path: str,
        content: str | None,
        stage: str,
        *,
        owner: str = "root",
        group: str = "wheel",
        mode: str = "0644",
        validate: str | None = None,
    ) -> None:
        self._entry(
            path, "file", stage, content=content, owner=owner, group=group, mode=mode, validate=validate
        )

    def _plist(self, label: str, stage: str, **keys: Any) -> str:
        content = plistlib.dumps({"Label": label, **keys}, sort_keys=True).decode()
        self._file(self.paths.plist(label), content, stage, validate="plist")
        return content

    def _job(self, label: str, state: str, restart_on: list[str], stage: str) -> None:
        self.jobs.append(
            {
                "label": label,
                "plist": self.paths.plist(label),
                "state": state,
                "restart_on": restart_on,
                "stage": stage,
            }
        )

    def _absent(self, label: str, stage: str, *paths: str) -> None:
        """A job that this plan has no use for: gone, with its plist and what belongs to it alone."""
        self._job(label, "absent", [], stage)
        for path in (self.paths.plist(label), *paths):
            self._entry(path, "absent", stage)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def template(name: str, **values: Any) -> str:
    """The text of a template of the role with these values; one that it lacks is an error."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
