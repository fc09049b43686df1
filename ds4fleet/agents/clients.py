"""What each client needs to know, in its own format.

Formats: the engine's own client guide (README of antirez/ds4, "Agent Client Usage"), and beyond it the
clients' documentation as of October 2026; docs/agents.md names what was taken from where.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds4agent.border import bounded_json, plain
from ds4fleet.agents import proxies

#: Ids go into files and command lines of other programs.
ID = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,199}\Z", re.A)
#: The engine asks for no key; the clients want a non-empty one.
KEY = "ds4"
#: A prefill of 200k tokens took 935 s on a slow Mac (antirez/ds4 #333), a longer one behind it as much again.
IDLE_S = 3600
#: Claude Code and Codex start compacting before the window is full; the engine refuses what is beyond it.
COMPACT_SHARE = 0.9
#: Claude Code takes a smaller AUTO_COMPACT_WINDOW for this, and says so at each start (2.1.332).
CLAUDE_LEAST_WINDOW = 100_000
#: Of its window it keeps some 33,000 tokens free for an answer and a summary, and its first prompt has 11,000
#: and more: below this it would summarise in every turn (2.1.332).
CLAUDE_CRAMPED = 48_000


@dataclass(frozen=True)
class Server:
    """The engine as its clients see it, read from /v1/models.

    name          host or region, used in titles
    url           base address without /v1
    model         id to ask for
    title         what people read
    context       tokens that the engine is configured for
    output        most tokens that one answer may have
    notes         sentences that people should read before they use it
    """

    name: str
    url: str
    model: str
    title: str
    context: int
    output: int
    notes: tuple[str, ...] = ()

    @classmethod
    def from_models(cls, name: str, url: str, models: Any) -> Server:
        """Reads a /v1/models body. Since July it lists aliases of both families; `name` tells which is
        loaded. Raises ValueError when the body says nothing useful."""
        entries = bounded_json.objects(models.get("data") if isinstance(models, Mapping) else None)
        if not entries:
            raise ValueError("the model list has no id and context")
        loaded = plain.line(entries[0].get("name") or entries[0].get("id"), 80)
        slug = loaded.lower().replace(" ", "-")
        entry = next((one for one in entries if one.get("id") == slug), entries[0])
        provider = bounded_json.child(entry, "top_provider")
        context = bounded_json.count(entry.get("context_length") or provider.get("context_length"))
        most = bounded_json.count(provider.get("max_completion_tokens")) or context
        model = bounded_json.text(entry.get("id"))
        if not context or not most or not ID.match(model):
            raise ValueError("the model list has no id and context that a client could use")
        return cls(name, url, model, loaded, context, min(most, context))


@dataclass(frozen=True)
class AtLeast:
    """A number that is only ever raised in a file; 0 there means without limit and stays."""

    number: int


@dataclass(frozen=True)
class IfThere:
    """Changes to an object that are made only where a file has that object."""

    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A file of a client and what is merged into it; `form` is json or toml."""

    path: Path
    form: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Setup:
    """All that a client needs: files, environment, how to start it, and what to know."""

    files: tuple[Target, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    notes: tuple[str, ...] = ()


def _no_proxy() -> dict[str, str]:
    """What keeps a client away from the proxy of this environment, where there is one."""
    return proxies.exceptions(os.environ) if proxies.taken_by(os.environ) else {}


def opencode(server: Server, home: Path) -> Setup:
    """Provider `ds4` over chat completions."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "opencode"
    commented = folder / "opencode.jsonc"
    provider = {
        "name": f"ds4 ({server.name})",
        "npm": "@ai-sdk/openai-compatible",
        "options": {
            "baseURL": f"{server.url}/v1",
            "apiKey": KEY,
            "timeout": False,
            "headerTimeout": IDLE_S * 1000,
            "chunkTimeout": IDLE_S * 1000,
        },
        "models": {
            server.model: {
                "name": f"{server.title} ({server.name})",
                "limit": {"context": server.context, "output": server.output},
            }
        },
    }
    changes = {"$schema": "https://opencode.ai/config.json", "provider": {"ds4": provider}}
    path = commented if commented.exists() else folder / "opencode.json"
    return Setup((Target(path, "json", changes),), start=f"opencode --model ds4/{server.model}")


def codex(server: Server, home: Path) -> Setup:
    """Provider `ds4` over the Responses API, and a profile of that name."""
    folder = Path(os.environ.get("CODEX_HOME") or home / ".codex")
    provider = {
        "name": f"ds4 ({server.name})",
        "base_url": f"{server.url}/v1",
        "wire_api": "responses",
        "stream_idle_timeout_ms": IDLE_S * 1000,
    }
    profile = {
        "model": server.model,
        "model_provider": "ds4",
        "model_context_window": server.context,
        "model_auto_compact_token_limit": int(server.context * COMPACT_SHARE),
    }
    older = ["-c", "model_provider=ds4", "-c", f"model_context_window={server.context}"]
    return Setup(
        (
            Target(folder / "config.toml", "toml", {"model_providers": {"ds4": provider}}),
            Target(folder / "ds4.config.toml", "toml", profile),
        ),
        start="codex --profile ds4",
        notes=("An older Codex: " + shlex.join(["codex", "-m", server.model, *older]),),
    )


def claude_code(server: Server, home: Path) -> Setup:
    """A settings file of its own, so that Claude Code without it stays as it is."""
    path = home / ".claude" / "settings.ds4.json"
    names = (
        "ANTHROPIC_MODEL",
        "ANTHROPIC_CUSTOM_MODEL_OPTION",
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    )
    environment = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        **dict.fromkeys(names, server.model),
        "ANTHROPIC_CUSTOM_MODEL_OPTION_NAME": f"{server.title} ({server.name})",
        "API_TIMEOUT_MS": str(IDLE_S * 1000),
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": str(IDLE_S * 1000),
        # Of a model that it does not know it believes a million.
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(server.context),
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(max(server.context, CLAUDE_LEAST_WINDOW)),
        # Without it the system prompt begins with a line that differs from conversation to conversation, and
        # the engine reads the first prompt of each anew.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
        **_no_proxy(),
    }
    prompt = "Its first prompt is 11,000 tokens and more; the KV cache on disk keeps them for the next one."
    cramped = (
        f"A context of {server.context:,} is too small for it: it would summarise in every turn; let the"
        f" engine have {CLAUDE_CRAMPED:,} and more (ds4_context)."
    )
    return Setup(
        (Target(path, "json", {"env": environment}),),
        start=f"env -u ANTHROPIC_API_KEY claude --settings {path}",
        notes=(prompt, cramped) if server.context < CLAUDE_CRAMPED else (prompt,),
    )


def pi(server: Server, home: Path) -> Setup:
    """Provider `ds4` over chat completions, with the quirks that upstream's guide lists."""
    folder = home / ".pi" / "agent"
    model = {
        "id": server.model,
        "name": f"{server.title} ({server.name})",
        "reasoning": True,
        "thinkingLevelMap": {
            "off": None,
            "minimal": "low",
            "low": "low",
            "medium": "medium",
            "high": "high",
            "xhigh": "xhigh",
        },
        "input": ["text"],
        "contextWindow": server.context,
        "maxTokens": server.output,
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
    }
    provider = {
        "name": f"ds4 ({server.name})",
        "baseUrl": f"{server.url}/v1",
        "api": "openai-completions",
        "apiKey": KEY,
        "compat": {
            "supportsStore": False,
            "supportsDeveloperRole": False,
            "supportsReasoningEffort": True,
            "supportsUsageInStreaming": True,
            "maxTokensField": "max_tokens",
            "supportsStrictMode": False,
            "thinkingFormat": "deepseek",
            "requiresReasoningContentOnAssistantMessages": True,
        },
        "models": [model],
    }
    return Setup(
        (
            Target(folder / "models.json", "json", {"providers": {"ds4": provider}}),
            Target(folder / "settings.json", "json", {"httpIdleTimeoutMs": AtLeast(IDLE_S * 1000)}),
        ),
        start=f"pi --provider ds4 --model {server.model}",
    )


def openclaw(server: Server, home: Path) -> Setup:
    """Provider `ds4` over chat completions, beside the built-in ones."""
    path = Path(os.environ.get("OPENCLAW_CONFIG_PATH") or home / ".openclaw" / "openclaw.json")
    provider = {
        "baseUrl": f"{server.url}/v1",
        "apiKey": KEY,
        "api": "openai-completions",
        "timeoutSeconds": IDLE_S,
        "models": [
            {
                "id": server.model,
                "name": f"{server.title} ({server.name})",
                "reasoning": True,
                "input": ["text"],
                "contextWindow": server.context,
                "maxTokens": server.output,
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
            }
        ],
    }
    reference = f"ds4/{server.model}"
    changes = {
        "models": {"mode": "merge", "providers": {"ds4": provider}},
        # Where it is set it is the list of what may be used.
        "agents": {"defaults": {"models": IfThere({reference: {}})}},
    }
    return Setup((Target(path, "json", changes),), start=f"openclaw models set {reference}")


def openai(server: Server, home: Path) -> Setup:
    """The official SDK, by environment."""
    return Setup(
        environment={"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, **_no_proxy()},
        start=f"OpenAI(timeout={IDLE_S}).chat.completions.create(model={server.model!r}, stream=True, ...)",
    )


def anthropic(server: Server, home: Path) -> Setup:
    """The official SDK, by environment."""
    return Setup(
        environment={"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY, **_no_proxy()},
        start=f"Anthropic(timeout={IDLE_S}).messages.create(model={server.model!r}, stream=True, ...)",
    )


CLIENTS: Mapping[str, Callable[[Server, Path], Setup]] = {
    "opencode": opencode,
    "codex": codex,
    "claude-code": claude_code,
    "pi": pi,
    "openclaw": openclaw,
    "openai": openai,
    "anthropic": anthropic,
}
