"""What OpenSSH's last words mean: the one table of its endings, for tunnels and for every other ssh of ours.

The texts are those of OpenSSH 8 to 10 (sshconnect.c, kex.c, packet.c, channels.c, auth messages of PAM).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """What a text of ssh's means.

    kind     hostkey, certificate, keys, account, auth, bastion, algorithm, banner, port, dead, network,
             terminal or client
    text     a clause with the names of `TunnelSpec`'s fields, and `via` for the bastion
    retried  whether a later try can succeed without a person; one that cannot looks like an attack
    """

    pattern: str
    kind: str
    text: str
    retried: bool = True

    def found(self, said: str) -> re.Match[str] | None:
        return re.search(self.pattern, said, re.M)


#: An ssh whose proxy has ended says this instead of an address.
_PROXY_ENDED = r"UNKNOWN port 65535"

#: Of a way through a bastion, before all others: what is said of keys and addresses is then the bastion's.
BASTION: tuple[Meaning, ...] = (
    Meaning(
        r"open failed: administratively prohibited[^\n]*\n(?:[^\n]*\n)*?[^\n]*stdio forwarding failed",
        "bastion",
        "the bastion {via} refuses to forward to {address} port {ssh_port}; allow it there"
        " (AllowTcpForwarding, PermitOpen)",
        retried=False,
    ),
    Meaning(
        r"open failed: ([^\n]+)\n(?:[^\n]*\n)*?[^\n]*stdio forwarding failed",
        "bastion",
        "the bastion {via} does not reach {address} port {ssh_port}: {found}",
    ),
    Meaning(
        r"(?:Host key verification failed|host key is known for)(?:[^\n]*\n)+?[^\n]*" + _PROXY_ENDED,
        "bastion",
        "the host key of the bastion {via} is not known, or has changed; log in to it once by ssh",
        retried=False,
    ),
    Meaning(
        r"Too many authentication failures(?:[^\n]*\n)+?[^\n]*" + _PROXY_ENDED,
        "bastion",
        "too many keys were offered to the bastion {via}; name its key in ~/.ssh/config (IdentitiesOnly yes)",
        retried=False,
    ),
    Meaning(
        r"(\S*: )?Permission denied(?:[^\n]*\n)+?[^\n]*" + _PROXY_ENDED,
        "bastion",
        "the bastion {via} refuses the login",
    ),
    Meaning(
        r"^(?:ssh: )?([^\n]+)\n(?:kex_exchange_identification[^\n]*\n)?[^\n]*" + _PROXY_ENDED,
        "bastion",
        "no way through the bastion {via}: {found}",
    ),
    Meaning(_PROXY_ENDED, "bastion", "no way through the bastion {via}: it closed the connection"),
)

ENDINGS: tuple[Meaning, ...] = (
    Meaning(
        r"Certificate invalid: ([^\n]+)",
        "certificate",
        "its host certificate is not valid ({found}); have it signed anew by its authority",
        retried=False,
    ),
    Meaning(
        r"REVOKED HOST KEY DETECTED|was revoked and you have requested",
        "hostkey",
        "its host key is marked as revoked; set the Mac up anew",
        retried=False,
    ),
    Meaning(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "hostkey",
        "its host key is not the recorded one; if it was reinstalled, record the new one with"
        " playbooks/bootstrap.yml, otherwise do not connect",
        retried=False,
    ),
    Meaning(
        r"No \S+ host key is known for|Host key verification failed",
        "hostkey",
        "its host key is not recorded in {known_hosts}; run playbooks/bootstrap.yml for it first",
        retried=False,
    ),
    Meaning(
        r"Too many authentication failures",
        "keys",
        "too many keys were offered before the right one; name one key (ansible_ssh_private_key_file, for"
        " tunnels ds4_tunnel_key_file)",
        retried=False,
    ),
    Meaning(
        r"(?i)account (?:is |has been |was )?(?:temporarily )?(?:locked|disabled|expired)|account has expired"
        r"|account is currently not available|password has expired|This system is locked",
        "account",
        "the account {user} is locked or has expired there, or the disk waits for its password",
        retried=False,
    ),
    Meaning(
        r"Unable to negotiate with [^\n]*: (no matching [^.\n]+ found)",
        "algorithm",
        "its sshd and the ssh here have no algorithm in common ({found}); update one of them, or allow it in"
        " ansible_ssh_extra_args",
        retried=False,
    ),
    Meaning(
        r"Permission denied",
        "auth",
        "key refused for {user}; apply the tunnel stage (site.yml --tags tunnel)"
        " or ask for access (fab access add)",
    ),
    Meaning(
        r"Identity file .* not accessible|Load key .*(No such file|invalid format)",
        "auth",
        "key file {key} cannot be read",
    ),
    Meaning(
        r"Address already in use|Could not request local forwarding|cannot listen to port",
        "port",
        "local port {port} is taken",
    ),
    Meaning(r"Timeout, server .* not responding", "dead", "no answer for {alive} s, connection given up"),
    Meaning(r"Could not resolve hostname", "network", "address {address} cannot be resolved"),
    Meaning(r"Connection refused", "network", "nothing listens on {address} port {ssh_port}"),
    Meaning(
        r"timed out during banner exchange|banner line contains invalid|[Ii]nvalid SSH identification",
        "banner",
        "what answers at {address} port {ssh_port} is not an sshd, or an sshd too busy to greet",
    ),
    Meaning(r"timed out", "network", "no answer from {address} port {ssh_port}"),
    Meaning(r"No route to host|Network is unreachable", "network", "no route to {address}"),
    Meaning(r"PTY allocation request failed", "terminal", "the account gives no terminal"),
    Meaning(
        r"Bad configuration option|unknown option",
        "client",
        "the local ssh does not take an option",
        retried=False,
    ),
    # Before its greeting sshd turns away addresses that it penalises, and logins beyond MaxStartups.
    Meaning(
        r"kex_exchange_identification: (?:read: )?Connection (?:closed|reset)",
        "banner",
        "its sshd closed the connection before its greeting: it may turn this address away for a while"
        " (PerSourcePenalties, MaxStartups)",
    ),
    Meaning(
        r"Connection (reset|closed)|Broken pipe|Connection to .* closed|banner exchange|kex_exchange",
        "network",
        "connection closed by the other side",
    ),
)


def meaning(said: str) -> tuple[Meaning, str] | None:
    """The meaning of what ssh said, and the part of it that is worth telling; None for words that are new."""
    for one in (*BASTION, *ENDINGS):
        found = one.found(said)
        if found is not None:
            part = next((group for group in found.groups() if group), "") if found.groups() else ""
            return one, part.strip()
    return None
