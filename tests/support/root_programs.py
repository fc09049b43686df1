"""Every program of ours that runs as root on a Mac, to be run one by one while an account is hostile."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

from ds4fleet.components import agent, scripts
from ds4fleet.components.shapes import FileEntry
from ds4fleet.fleetview import status
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.layout import CHECKOUT
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan
from ds4fleet.plan.watch import watch
from ds4fleet.remote import observe
from ds4fleet.upgrade import snapshot, switch_order
from ds4fleet.weights import listing, relay
from maclab import engine
from tests.support.rollouts import MAC_PYTHON

ROOT = "/opt/ds4"
#: On the Mac, root's alone: the modules and what they import, as Ansible would pack it.
CODE = "/private/var/root/hostile-test"
#: Programs dawdle before each step, so that the accounts come between any two.
DAWDLE = """\
import json, random, runpy, sys, time
sys.dont_write_bytecode = True
def dawdle(event, arguments):
    if event.startswith("os.") or event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        time.sleep(random.random() * 0.004)
sys.addaudithook(dawdle)
"""
#: An engine that its own account holds up may answer nothing; three minutes each time would be too long here.
RUNNER = f"""{DAWDLE}\
sys.path.insert(0, sys.argv[1])
from ansible_collections.ds4.fleet.plugins.module_utils.ds4agent.engine import serving
serving.CHAT_TIMEOUT_S = 10
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_module("ansible_collections.ds4.fleet.plugins.modules." + sys.argv[2], run_name="__main__")
"""
#: The watchdog without the stop itself.
WATCHDOG = f"""{DAWDLE}\
from pathlib import Path
root = Path(sys.argv[1])
sys.path.insert(0, str(root / "libexec/ds4agent"))
from ds4agent.switch import state
from ds4agent.watchdog import memory as watchdog
places = state.Places(str(root))
notes, rules = (root / "watchdog/stopped", root / "watchdog/state.json"), dict(drain_s=1, notice_s=0)
watchdog.keep(*notes, "stop", "hostile", dict(stops=[time.time()]), time.time())
assert "could not" not in watchdog.warn_clients(places, None, "hostile", rules)
watchdog.keep(*notes, "start", "hostile", dict(stops=[]), time.time())
watchdog.open_again(places, "start")
watchdog.open_again(places, "none")
"""
#: As long as the account may hold up its build here.
BUILD_S = 60
#: A program that takes longer hangs. The slowest builds an engine or switches, on two cores with others.
DEADLINE_S = 240.0


class Programs:
    """The programs with what they are told on this Mac; `said` is all that the last one printed."""

    def __init__(self, lab: Any, host: str) -> None:
        self.lab, self.host = lab, host
        self.said = ""
        self._carry()
        self.mac = mac = lab.fleet.host(host)
        self.settings = {**role_defaults(), **mac.vars}
        self.watched = watch(mac.vars)
        seen = json.loads(self.module("ds4_info", **self.watched))["observation"]
        self.plan = make_plan(host, mac.vars, seen, region=mac.region).to_dict()
        assert not self.plan["refusals"], self.plan["refusals"]
        self.other = engine.commits(lab.folder / "upstreams" / "repos" / "antirez" / "ds4.git")["may"]
        # What these make for the first time is there before anybody watches; and without anybody in its way,
        # each does what it is to do.
        self.fetch()
        self.prefetch()
        assert not self.build(timeout_s=int(DEADLINE_S)).get("failed"), self.said

    def _carry(self) -> None:
        """Puts the code where nobody but root comes."""
        code = self.lab.lab.root(self.host) / CODE.lstrip("/")
        code.mkdir(mode=0o700)
        package = code / "ansible" / "module_utils"
        (original,) = [Path(path) for path in ansible.module_utils.__path__ if "site-packages" in path]
        left_out = shutil.ignore_patterns("__pycache__", "powershell", "csharp")
        shutil.copytree(original, package, ignore=left_out)
        (code / "ansible" / "__init__.py").write_text("__version__ = '0'\n")
        plugins = code / "ansible_collections" / "ds4" / "fleet" / "plugins"
        for name in ("modules", "module_utils"):
            shutil.copytree(CHECKOUT / "plugins" / name, plugins / name, ignore=left_out)
        for name in ("hostile_account.py", "hostile_watch.py"):
            shutil.copy(CHECKOUT / "tests" / "support" / name, code / name)
        (code / "run.py").write_text(RUNNER)
        self.program(MAC_PYTHON, "-m", "compileall", "-q", CODE)

    # How they are run.

    def program(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """One program; what takes too long raises subprocess.TimeoutExpired."""
        done: subprocess.CompletedProcess[str] = self.lab.lab.exec(
            self.host, argv, input_text=text, timeout_s=DEADLINE_S
        )
        self.said += f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}\n"
        assert "Traceback" not in done.stdout + done.stderr, self.said
        return done

    def module(self, name: str, **arguments: Any) -> str:
        """What a module answers, JSON; a failure is one sentence."""
        done = self.program(MAC_PYTHON, f"{CODE}/run.py", CODE, name, text=json.dumps(arguments))
        answer = json.loads(done.stdout)
        assert not answer.get("failed") or answer["msg"], self.said
        return done.stdout

    def put(self, files: list[dict[str, Any]]) -> str:
        """ds4_files with the programs and scripts that the plan's entries name, as its action gives it."""
        whole = [scripts.with_content(FileEntry.from_json(one)) for one in files]
        filled = [{**one.arguments(), **({"packed": agent.packed()} if one.source else {})} for one in whole]
        return self.module("ds4_files", files=filled)

    def shell(self, script: str) -> str:
        """A script that a controller sends, here as root."""
        return str(self.program("/bin/sh", "-s", text=script).stdout)

    # What they are told.

    def observe(self) -> None:
        answer = json.loads(self.module("ds4_info", **self.watched))["observation"]
        assert answer["schema"] == 1 and answer["files"]["/opt/ds4/etc"]["kind"] == "dir", self.said

    def files(self) -> None:
        self.put(self.plan["files"])

    def files_anew(self) -> None:
        self.module("ds4_remove", paths=[f"{ROOT}/run"])
        self.put([one for one in self.plan["files"] if one["stage"] == "service"])

    def verify_weights(self) -> None:
        self.module("ds4_weights_store", state="verified", root=ROOT)

    def prune_weights(self) -> None:
        keep = [item["name"] for item in self.plan["weights"]["files"]]
        self.module("ds4_weights_store", state="pruned", root=ROOT, keep=keep, _ansible_check_mode=True)
        self.module("ds4_weights_store", state="pruned", root=ROOT, keep=keep, safe_mode=False)

    def weights(self) -> None:
        plan = self.plan["weights"]
        answer = self.module("ds4_weights", files=plan["files"], dir=plan["dir"])
        assert not json.loads(answer).get("failed"), self.said

    def order(self) -> dict[str, Any]:
        """Of a fetch that finds all in place."""
        weights = self.plan["weights"]
        where = (self.host, "", "192.0.2.1", 22, weights["dir"], weights["files"])
        mac = relay.Mac(*where, settings=self.settings)
        found: dict[str, Any] = relay.orders([mac])[self.host].order.to_json()
        return found

    def prefetch(self) -> None:
        for state in ("prepared", "marked", "paused", "resumed", "closed"):
            self.module("ds4_prefetch", state=state, files=self.plan["weights"]["files"], root=ROOT)
        self.module("ds4_prefetch_info", files=self.plan["weights"]["files"])

    def fetch(self) -> None:
        self.module(
            "ds4_prefetch", state="ordered", order=self.order(), keys=["ssh-ed25519 AAAA x"], root=ROOT
        )
        self.program(*agent.argv(ROOT, "fetch"))
        status = json.loads(self.module("ds4_prefetch_info"))["status"]
        assert status["state"] == "done", self.said
        self.module("ds4_prefetch", state="closed")

    def lock(self) -> None:
        for state in ("locked", "unlocked"):
            self.module("ds4_switch", state=state, run_id="hostile", owner="test")
        self.module("ds4_switch_info")

    def switch(self) -> None:
        """To what is served already, which clones its KV directory; nobody confirms, so it goes back."""
        settings = {**self.settings, "ds4_upgrade_hold_s": 1, "ds4_min_healthy_s": 0, "ds4_drain_s": 1}
        settings["ds4_drain_notice_s"] = 0
        plan = {**self.plan, "verify": {**self.plan["verify"], "ready_s": 20}}
        run_id = f"hostile-{time.time_ns()}"
        made = HostPlan.from_json(plan)
        order = switch_order.order(made, settings, run_id=run_id, attempt=1, now_s=time.time())
        self.module("ds4_switch", state="switched", order=order, wait_s=120)
        self.module("ds4_switch", state="aborted", run_id=run_id, wait_s=120)

    def mounts(self) -> None:
        self.program(f"{ROOT}/libexec/ds4-mounts")

    def storage(self) -> None:
        self.module("ds4_storage", volumes=self.plan["volumes"])

    def launchd(self) -> None:
        self.module("ds4_launchd", jobs=self.plan["jobs"])

    def user(self) -> None:
        accounts = self.plan["accounts"]
        self.module("ds4_user", groups=accounts["groups"], users=accounts["users"])

    def machine(self) -> None:
        self.module("ds4_memory", wired_limit_mib=self.plan["memory"]["wired_limit_mib"])
        self.module("ds4_power", settings=self.plan["power"])

    def verify(self) -> None:
        verify = {**self.plan["verify"], "ready_s": 5}
        server, user = self.plan["server"], str(self.settings["ds4_service_user"])
        self.module("ds4_verify", state="smoke", server=server, verify=verify, user=user)
        self.module("ds4_verify", state="serving", server=server, verify=verify)

    def build(self, timeout_s: int = BUILD_S) -> dict[str, Any]:
        """Another engine than the one that serves, and away with it again. The account may end or hold up
        its own build."""
        plan, user = self.plan["engine"], str(self.settings["ds4_service_user"])
        told = {key: plan[key] for key in ("repo", "root", "make_args")}
        told.update(commit=self.other, user=user, timeout_s=timeout_s)
        answer: dict[str, Any] = json.loads(self.module("ds4_engine", state="built", **told))
        self.module("ds4_remove", paths=[f"{plan['releases_dir']}/{self.other[:12]}"])
        return answer

    def watchdog(self) -> None:
        """What the memory watchdog does around a stop, and after it."""
        self.program(MAC_PYTHON, "-B", "-c", WATCHDOG, ROOT)

    def jump(self) -> None:
        """On a jump Mac that was set up when the directory was the tunnel account's."""
        folder = f"{ROOT}/etc/jump"
        tunnel = str(self.settings["ds4_tunnel_user"])
        self.shell(f"mkdir -p {folder}; chown {tunnel} {folder}; chmod 700 {folder}")
        time.sleep(0.3)
        plain = {"content": None, "target": None, "validate": None}
        root = {"owner": "root", "group": "wheel", **plain}
        entries = [{"path": folder, "kind": "dir", "mode": "0755", **root}]
        self.put(entries)
        keygen = ("/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/key")
        if not self.shell(f"ls {folder}/key"):
            self.module("ds4_remove", paths=[f"{folder}/key.pub"])
            self.program(*keygen)
        keys = [{"path": f"{folder}/key.pub", "kind": "file", "mode": "0644", **root}]
        keys.append({**keys[0], "path": f"{folder}/key", "mode": "0600", "owner": tunnel})
        if not json.loads(self.put(keys)).get("failed"):
            self.shell(f"head -c 100000 {folder}/key.pub")
        self.module("ds4_remove", paths=[folder])

    def looks(self) -> None:
        """What fab status, weights list and upgrade --status ask of a Mac, over ssh."""
        assert status.ask(self.mac).reachable
        assert snapshot.take([self.mac])[0].reachable
        (answer,) = observe.ask([self.mac], "weights", "staging", "verifying")
        assert answer.document is not None and listing.files_of(answer), answer.sentence
        self.said += str(answer.document)

    def logs(self) -> None:
        self.program("/usr/sbin/newsyslog", "-F", "-f", "/etc/newsyslog.d/ds4.conf")

    def probe(self) -> None:
        self.module("ds4_probe")

    @property
    def all(self) -> dict[str, Callable[[], object]]:
        names = [
            "observe",
            "files",
            "files_anew",
            "verify_weights",
            "prune_weights",
            "weights",
            "prefetch",
            "fetch",
            "lock",
            "switch",
            "mounts",
            "storage",
            "launchd",
            "user",
            "machine",
            "verify",
            "build",
            "watchdog",
            "jump",
            "looks",
            "logs",
            "probe",
        ]
        return {name: getattr(self, name) for name in names}
