"""What each client is told, and how it gets into the client's files."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomlkit

from ds4agent.tunnel import probe
from ds4fleet import agents
from ds4fleet.agents import clients, jsonc, proxies, write
from ds4fleet.agents.clients import CLIENTS, Server
from ds4fleet.errors import OperatorError

SERVER = Server("sg-01", "http://127.0.0.1:8301", "deepseek-v4-flash", "DeepSeek V4 Flash", 131072, 131072)

MAY = {
    "object": "list",
    "data": [
        {
            "id": "deepseek-v4-flash",
            "name": "DeepSeek V4 Flash",
            "context_length": 100000,
            "top_provider": {"context_length": 100000, "max_completion_tokens": 32768},
        }
    ],
}
JULY_PRO = {
    "object": "list",
    "data": [
        {"id": "deepseek-v4-flash", "name": "DeepSeek V4 Pro", "context_length": 65536},
        {"id": "deepseek-v4-pro", "name": "DeepSeek V4 Pro", "context_length": 65536},
    ],
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("XDG_CONFIG_HOME", "CODEX_HOME", "OPENCLAW_CONFIG_PATH")
    for name in (*others, *(name for name in os.environ if name.lower().endswith("_proxy"))):
        monkeypatch.delenv(name, raising=False)


def test_the_context_and_the_output_limit_are_the_servers() -> None:
    server = Server.from_models("x", "http://x", MAY)
    assert (server.model, server.context, server.output) == ("deepseek-v4-flash", 100000, 32768)


def test_of_two_aliases_the_loaded_family_is_named() -> None:
    assert Server.from_models("x", "http://x", JULY_PRO).model == "deepseek-v4-pro"


def test_a_list_that_says_nothing_is_refused() -> None:
    for body in ({}, {"data": []}, {"data": [{"id": "x"}]}, None):
        with pytest.raises(ValueError, match="no id and context"):
            Server.from_models("x", "http://x", body)


class TestBehindARegionsAddress:
    """Any Mac there may answer, so no client is told more than the least of them has."""

    CONTEXTS = {"tokyo": 300_000, "tyo-01": 300_000, "tyo-02": 81_920, "tyo-03": 0, "sel-01": 10}

    @pytest.fixture(autouse=True)
    def region(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ports = {name: 8100 + number for number, name in enumerate(self.CONTEXTS)}
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

        async def ask(port: int, timeout_s: float) -> probe.Answer:
            (context,) = [self.CONTEXTS[name] for name in ports if ports[name] == port]
            models = {"data": [{"id": "deepseek-v4-flash", "context_length": context}]}
            return probe.Answer("ok", models=models) if context else probe.Answer("silent", "no answer")

        members = [{"name": name} for name in ("tyo-01", "tyo-02", "tyo-03")]
        tunnels = [{"name": name, "endpoint": urls[name]} for name in urls if name != "tokyo"]
        endpoint = {"name": "tokyo", "endpoint": urls["tokyo"], "members": members}
        monkeypatch.setattr(agents.probe, "ask", ask)
        monkeypatch.setattr(agents.view, "everything", lambda: (tunnels, [endpoint]))

    def test_the_least_context_is_told_with_the_reason(self) -> None:
        server = agents.find_server()
        assert (server.name, server.context, server.output) == ("tokyo", 81_920, 81_920)
        silent, least = server.notes
        assert silent.startswith("tyo-03: ")
        assert "tyo-01 300,000, tyo-02 81,920" in least

    def test_where_all_are_alike_there_is_nothing_to_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self, "CONTEXTS", dict.fromkeys(self.CONTEXTS, 100_000))
        server = agents.find_server()
        assert (server.context, server.notes) == (100_000, ())

    def test_macs_that_answer_only_while_the_region_is_away_are_told_and_take_nothing_from_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tunnels, (endpoint,) = agents.view.everything()
        members = [
            {"name": "tyo-01", "tier": 0},
            {"name": "sel-01", "tier": 1},
            {"name": "tyo-03", "tier": 1},
        ]
        monkeypatch.setattr(agents.view, "everything", lambda: (tunnels, [{**endpoint, "members": members}]))
        server = agents.find_server()
        assert server.context == 300_000
        silent, later = server.notes
        assert silent.startswith("tyo-03: ")
        assert later.startswith("While tokyo is away sel-01 10 answers")

    def test_where_nobody_of_the_region_is_there_whoever_answers_counts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tunnels, (endpoint,) = agents.view.everything()
        members = [{"name": "tyo-03", "tier": 0}, {"name": "tyo-02", "tier": 1}]
        monkeypatch.setattr(agents.view, "everything", lambda: (tunnels, [{**endpoint, "members": members}]))
        monkeypatch.setattr(self, "CONTEXTS", {**self.CONTEXTS, "tokyo": 81_920})
        server = agents.find_server()
        assert server.context == 81_920 and server.notes[0].startswith("tyo-03: ")


def limits(value: object) -> list[int]:
    if isinstance(value, dict):
        found = [
            v for k, v in value.items() if k in ("context", "contextWindow", "model_context_window", "output")
        ]
        return found + [n for v in value.values() for n in limits(v)]
    return [n for v in value for n in limits(v)] if isinstance(value, list) else []


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_is_told_more_context_than_the_server_has(client: str, tmp_path: Path) -> None:
    setup = CLIENTS[client](SERVER, tmp_path)
    for target in setup.files:
        assert all(number <= SERVER.context for number in limits(dict(target.changes)))


@pytest.mark.parametrize("client", ["opencode", "codex", "pi", "openclaw"])
def test_openai_shaped_clients_are_told_the_address_with_v1(client: str, tmp_path: Path) -> None:
    text = json.dumps([dict(t.changes) for t in CLIENTS[client](SERVER, tmp_path).files], default=vars)
    assert "http://127.0.0.1:8301/v1" in text


def test_claude_code_is_told_the_address_without_v1_and_long_timeouts(tmp_path: Path) -> None:
    (target,) = clients.claude_code(SERVER, tmp_path).files
    environment = target.changes["env"]
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8301"
    assert int(environment["CLAUDE_STREAM_IDLE_TIMEOUT_MS"]) >= 600_000
    assert environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "131072"
    assert all(isinstance(value, str) for value in environment.values())


@pytest.mark.parametrize(
    ("context", "window"), [(65_536, "100000"), (100_000, "100000"), (300_000, "300000")]
)
def test_claude_code_is_told_the_context_where_its_window_does_not_reach(
    context: int, window: str, tmp_path: Path
) -> None:
    (target,) = clients.claude_code(replace(SERVER, context=context), tmp_path).files
    environment = target.changes["env"]
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(context)
    assert environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == window
    assert environment["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"


def test_a_context_that_is_too_small_for_claude_code_is_said(tmp_path: Path) -> None:
    for context, notes in ((32_768, 2), (65_536, 1)):
        assert len(clients.claude_code(replace(SERVER, context=context), tmp_path).notes) == notes


class TestAProxyInTheEnvironment:
    """Agents would ask it for an address of this machine, and get its error page."""

    @pytest.mark.parametrize(
        ("environ", "name"),
        [
            ({"http_proxy": "http://p:1"}, "http_proxy"),
            ({"HTTPS_PROXY": "http://p:1"}, "HTTPS_PROXY"),
            ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "example.org, 10.0.0.0/8"}, "ALL_PROXY"),
            ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "x"}, "HTTP_PROXY"),
            ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1"}, ""),
            ({"HTTP_PROXY": "http://p:1", "no_proxy": "*"}, ""),
            ({"HTTP_PROXY": ""}, ""),
            ({}, ""),
        ],
    )
    def test_it_is_seen_where_nothing_excepts_this_machine(self, environ: dict[str, str], name: str) -> None:
        assert proxies.taken_by(environ) == name
        assert proxies.taken_by({**environ, **proxies.exceptions(environ)}) == ""

    @pytest.mark.parametrize("client", CLIENTS)
    def test_every_client_is_kept_away_from_it_or_started_so(
        self,
        client: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(agents, "find_server", lambda *_asked: SERVER)
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        assert agents.run(client) == 0
        shown = capsys.readouterr()
        assert "PROXY" not in shown.out + shown.err
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", "corp.example")
        assert agents.run(client) == 0
        shown = capsys.readouterr()
        assert "corp.example,127.0.0.1,localhost" in shown.out + shown.err

    def test_a_check_fails_that_drives_the_apis_as_agents_do(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(agents, "find_server", lambda *_asked: SERVER)
        monkeypatch.setattr(agents.checking, "run", lambda _server: [])
        assert agents.run(check=True) == 0
        monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
        assert agents.run(check=True) != 0
        assert "ALL_PROXY takes agents elsewhere" in " ".join(capsys.readouterr().out.split())


def test_codex_speaks_responses_and_waits_for_prefill(tmp_path: Path) -> None:
    provider = clients.codex(SERVER, tmp_path).files[0].changes["model_providers"]["ds4"]
    assert provider["wire_api"] == "responses"
    assert provider["stream_idle_timeout_ms"] >= 1_000_000


def test_codex_configuration_keeps_comments_and_other_providers(tmp_path: Path) -> None:
    before = (
        '# mine\nmodel = "gpt-5.5" # daily\n\n[model_providers.azure]\nname = "Azure"  # work\n\n'
        '[mcp_servers.x]\ncommand = "y"\n'
    )
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(before)
    change = write.plan(clients.codex(SERVER, tmp_path).files[0])
    for line in before.splitlines():
        assert line in change.after.splitlines()
    parsed = tomllib.loads(change.after)
    assert parsed["model"] == "gpt-5.5"
    assert set(parsed["model_providers"]) == {"azure", "ds4"}
    write.apply(change)
    again = write.plan(clients.codex(SERVER, tmp_path).files[0])
    assert again.before == again.after


@pytest.mark.parametrize(
    "before",
    [
        'model_providers = { azure = { name = "Azure" } } # in one line\n',
        'model_providers.azure.name = "Azure" # dotted\n\n[mcp]\nx = 1\n',
        '[model_providers.azure]\nname = "Azure"\n[model_providers.ds4] # old\nname = "x" # mine\nz = 1\n',
    ],
)
def test_every_way_of_writing_a_table_takes_the_provider(before: str) -> None:
    provider = {"name": "ds4", "wire_api": "responses"}
    after = write.merge_toml(before, {"model_providers": {"ds4": provider}})
    parsed = tomllib.loads(after)
    assert parsed["model_providers"]["azure"] == {"name": "Azure"}
    assert parsed["model_providers"]["ds4"].items() >= provider.items()
    for comment in (line.partition("#")[2] for line in before.splitlines()):
        assert comment in after
    assert write.merge_toml(after, {"model_providers": {"ds4": provider}}) == after


def test_a_comment_stays_above_the_table_that_it_is_about() -> None:
    before = '[model_providers.azure]\nname = "Azure"\n# about work\n[profiles.work]\nmodel = "x"\n'
    after = write.merge_toml(before, {"model_providers": {"ds4": {"name": "ds4"}}})
    assert after == before + '\n[model_providers.ds4]\nname = "ds4"\n'
    again = write.merge_toml(after, {"model_providers": {"ds4": {"name": "other"}}})
    assert again == after.replace('"ds4"', '"other"')


def test_two_writes_in_a_second_keep_two_backups(tmp_path: Path) -> None:
    (target,) = clients.claude_code(SERVER, tmp_path).files
    target.path.parent.mkdir()
    backups = set()
    for text in ('{"a": 1}', '{"b": 2}'):
        target.path.write_text(text)
        backup = write.apply(write.plan(target))
        assert backup is not None
        assert backup.read_text() == text
        backups.add(backup)
    assert len(backups) == 2


def test_pis_idle_timeout_is_only_ever_raised(tmp_path: Path) -> None:
    settings = tmp_path / ".pi" / "agent" / "settings.json"
    settings.parent.mkdir(parents=True)
    for now, then in ((0, 0), (300_000, 3_600_000), (9_000_000, 9_000_000)):
        settings.write_text(json.dumps({"theme": "dark", "httpIdleTimeoutMs": now}))
        change = write.plan(clients.pi(SERVER, tmp_path).files[1])
        assert json.loads(change.after) == {"theme": "dark", "httpIdleTimeoutMs": then}


def test_openclaws_list_of_what_may_be_used_is_joined_and_never_begun(tmp_path: Path) -> None:
    path = tmp_path / ".openclaw" / "openclaw.json"
    path.parent.mkdir()
    (target,) = clients.openclaw(SERVER, tmp_path).files
    assert "agents" not in json.loads(write.plan(target).after)
    for before, listed in (
        ("{agents: {defaults: {models: {'a/b': {alias: 'x'}}}}}", {"a/b": {"alias": "x"}}),
        (f"{{agents: {{defaults: {{models: {{'ds4/{SERVER.model}': {{alias: 'y'}}}}}}}}}}", {}),
    ):
        path.write_text(before)
        models = jsonc.loads(write.plan(target).after)["agents"]["defaults"]["models"]
        assert models.items() >= listed.items()
        assert f"ds4/{SERVER.model}" in models
    assert models == {f"ds4/{SERVER.model}": {"alias": "y"}}


@pytest.mark.parametrize(
    ("name", "text"), [("config.toml", '# a\r\nmodel = "x"\r\n'), ("x.json", '{\r\n  "a": 1\r\n}\r\n')]
)
def test_the_ends_of_lines_stay(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    backup = write.apply(write.plan(clients.Target(path, name.rpartition(".")[2], {"b": {"c": 1}})))
    assert backup is not None
    assert backup.read_bytes() == text.encode()
    after = path.read_bytes()
    assert after.startswith(text.encode()[:5])
    assert after.count(b"\n") == after.count(b"\r\n") > text.count("\n")


def test_opencode_with_comments_is_edited_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "opencode.jsonc").write_text('{\n  // mine\n  "theme": "x",\n}\n')
    (target,) = clients.opencode(SERVER, tmp_path).files
    assert target.path.name == "opencode.jsonc"
    after = write.plan(target).after
    assert "// mine" in after
    assert '"theme": "x"' in after


def test_writing_keeps_a_backup_and_the_mode(tmp_path: Path) -> None:
    (target,) = clients.openclaw(SERVER, tmp_path).files
    target.path.parent.mkdir()
    target.path.write_text("{ gateway: { port: 1 } } // mine\n")
    target.path.chmod(0o640)
    change = write.plan(target)
    backup = write.apply(change)
    assert backup is not None
    assert backup.read_text() == "{ gateway: { port: 1 } } // mine\n"
    assert target.path.stat().st_mode & 0o777 == 0o640
    assert "// mine" in target.path.read_text()
    assert not list(target.path.parent.glob(".openclaw*"))


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (target,) = clients.claude_code(SERVER, tmp_path).files
    target.path.parent.mkdir()
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    target.path.symlink_to(real)
    write.apply(write.plan(target))
    assert target.path.is_symlink()
    assert "ANTHROPIC_BASE_URL" in real.read_text()


def test_a_broken_file_is_left_as_it_is(tmp_path: Path) -> None:
    for client in ("codex", "opencode"):
        target = CLIENTS[client](SERVER, tmp_path).files[0]
        target.path.parent.mkdir(parents=True)
        target.path.write_text("{{{ [")
        with pytest.raises(OperatorError, match="left as it is"):
            write.plan(target)
        assert target.path.read_text() == "{{{ ["


def test_what_is_shown_can_be_pasted(tmp_path: Path) -> None:
    for client, make in CLIENTS.items():
        for target in make(SERVER, tmp_path).files:
            text = agents.rendered(target)
            assert tomlkit.parse(text) if target.form == "toml" else json.loads(text), client


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(agents, "find_server", lambda host, region: SERVER)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_write_shows_the_difference_before_it_asks(opened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OperatorError, match="--yes"):
        agents.run(client="codex", host="sg-01", write=True)
    assert "+[model_providers.ds4]" in capsys.readouterr().out
    assert not (opened / ".codex").exists()
    assert agents.run(client="codex", host="sg-01", write=True, yes=True) == 0
    assert (opened / ".codex" / "config.toml").exists()
    capsys.readouterr()
    assert agents.run(client="codex", host="sg-01", write=True) == 0
    assert "nothing to change" in capsys.readouterr().out


def test_an_sdk_is_shown_as_environment(opened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agents.run(client="openai", host="sg-01") == 0
    assert "export OPENAI_BASE_URL=http://127.0.0.1:8301/v1" in capsys.readouterr().out
    with pytest.raises(OperatorError, match="environment"):
        agents.run(client="anthropic", host="sg-01", write=True)


def test_an_unknown_client_is_refused_with_the_nearest(opened: Path) -> None:
    with pytest.raises(OperatorError, match="opencode"):
        agents.run(client="opencod", host="sg-01")
