"""The login of bootstrap: the account and passwords that Ansible resolved, and the first password."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ds4fleet.errors import EXIT_USAGE, OperatorError


class Options(Protocol):
    """Options of a plugin of Ansible's, as `get_option` and `set_option` have them."""

    def get_option(self, option: str) -> object: ...

    def set_option(self, option: str, value: object) -> None: ...


def prepare(host: str, connection: Options, become: Options | None, account: str, password_file: str) -> str:
    """Completes the options of a connection, and says what is not used: a clause, or "".

    What the inventory or the command line gives stays; the first password is for what they leave open.
    account: `ds4_bootstrap_user`, "" for the account of the inventory. password_file: "" for none.
    Raises OperatorError for an account that is not the inventory's, which no later run would log in to.
    """
    own = str(connection.get_option("remote_user") or "")
    if account and own and account != own:
        raise OperatorError(
            f"{host}: ds4_bootstrap_user is {account}, but the account of the inventory is {own}; set"
            f" ansible_user: {account}, or leave ds4_bootstrap_user out; no login was tried",
            exit_code=EXIT_USAGE,
        )
    if account and not own:
        connection.set_option("remote_user", account)
    first = Path(password_file).expanduser().read_text().rstrip("\r\n") if password_file else ""
    given = str(connection.get_option("password") or "")
    if first and not given:
        connection.set_option("password", first)
    if become is not None and not become.get_option("become_pass") and (first or given):
        become.set_option("become_pass", first or given)
    if first and given and first != given:
        return "ds4_bootstrap_password_file is not used for the login, as the inventory gives a password"
    return ""


def tried(connection: Options, password_file: str = "") -> str:
    """What a login was tried with, for a refusal: the account, the key and the password's place."""
    account = str(connection.get_option("remote_user") or "")
    key = str(connection.get_option("private_key_file") or "")
    ways = [f"the key {key}" if key else "the keys of ssh's own choice"]
    if password_file:
        ways.append(f"the password in {password_file}")
    elif connection.get_option("password"):
        ways.append("the password of the inventory")
    who = f"the account {account}" if account else "the account of ssh's own choice"
    return f"{who} with {' and '.join(ways)}"
