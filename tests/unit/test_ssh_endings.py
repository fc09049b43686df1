"""How ssh ends, in OpenSSH's words: each told apart, and which of them are tried again."""

from __future__ import annotations

import pytest

from ds4agent.tunnel import ssh
from ds4agent.tunnel.spec import TunnelSpec

VIA = "ops@b.example.net"
SPEC = TunnelSpec(
    name="tyo-01", address="10.0.0.5", user="_ds4tunnel", local_port=8101, via="ops@b.example.net"
)
RESET = "kex_exchange_identification: "
CLOSED = f"{RESET}Connection closed by remote host\nConnection closed by UNKNOWN port 65535"
NO, STDIO = "channel 0: open failed: ", f"stdio forwarding failed\n{CLOSED}"


@pytest.mark.parametrize(
    ("said", "kind", "tried_again", "part"),
    [
        ("Received disconnect from a port 22:2: Too many authentication failures", "keys", 0, "name one key"),
        (
            "Unable to negotiate with a port 22: no matching key exchange method found. Their offer: x",
            "algorithm",
            0,
            "no matching key exchange method found",
        ),
        ("Unable to negotiate with a port 22: no matching cipher found. Their offer: x", "algorithm", 0, ""),
        ("Connection timed out during banner exchange\nConnection timed out", "banner", 1, "not an sshd"),
        (f"{RESET}banner line contains invalid characters", "banner", 1, "not an sshd"),
        (f"{RESET}Connection closed by remote host", "banner", 1, "PerSourcePenalties"),
        (f"{RESET}read: Connection reset by peer\nConnection reset by a", "banner", 1, "PerSourcePenalties"),
        ("The account is locked due to 3 failed logins.\na@b: Permission denied", "account", 0, "locked"),
        ("Your account has expired; please contact your system administrator.", "account", 0, "expired"),
        ("This account is currently not available.", "account", 0, "_ds4tunnel"),
        ("Certificate invalid: expired\nHost key verification failed.", "certificate", 0, "expired"),
        ("REVOKED HOST KEY DETECTED!\nHost key verification failed.", "hostkey", 0, "revoked"),
        ("_ds4tunnel@10.0.0.5: Permission denied (publickey).", "auth", 1, "key refused"),
        (f"{NO}administratively prohibited: open failed\n{STDIO}", "bastion", 0, f"{VIA} refuses to forward"),
        (
            f"{NO}connect failed: No route to host\n{STDIO}",
            "bastion",
            1,
            f"{VIA} does not reach 10.0.0.5 port 22: connect failed: No route to host",
        ),
        (f"{VIA}: Permission denied (publickey).\n{CLOSED}", "bastion", 1, "refuses the login"),
        (f"Host key verification failed.\n{CLOSED}", "bastion", 0, "host key of the bastion"),
        (f"ssh: connect to host b port 22: Connection refused\n{CLOSED}", "bastion", 1, "connect to host b"),
        (f"Received disconnect: Too many authentication failures\n{CLOSED}", "bastion", 0, VIA),
        ("Connection closed by UNKNOWN port 65535", "bastion", 1, VIA),
    ],
)
def test_an_ending_is_told_apart(said: str, kind: str, tried_again: int, part: str) -> None:
    end = ssh.ending(SPEC, 255, said)
    assert (end.kind, end.permanent) == (kind, not tried_again)
    assert part in end.reason
    assert "\n" not in end.reason and "{" not in end.reason


def test_what_an_engine_refused_earlier_is_not_the_bastions() -> None:
    said = "channel 3: open failed: connect failed: Connection refused\nConnection to a closed."
    assert ssh.ending(SPEC, 255, said).kind == "network"
