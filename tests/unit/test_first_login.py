"""The login of bootstrap: what the inventory gives counts, the first password fills what it leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.remote import first_login


class Options(dict[str, object]):
    """Options of a plugin of Ansible's."""

    def get_option(self, option: str) -> object:
        return self.get(option)

    def set_option(self, option: str, value: object) -> None:
        self[option] = value


@pytest.fixture
def first(tmp_path: Path) -> str:
    file = tmp_path / "rental.password"
    file.write_text("first\n")
    return str(file)


def test_the_first_password_is_for_login_and_sudo_where_the_inventory_gives_none(first: str) -> None:
    connection, become = Options(remote_user="admin"), Options()
    assert first_login.prepare("a", connection, become, "", first) == ""
    assert (connection["password"], become["become_pass"]) == ("first", "first")


def test_what_the_inventory_gives_stays_and_the_file_is_said_to_be_unused(first: str) -> None:
    connection, become = Options(remote_user="ops", password="own"), Options(become_pass="root's")
    assert "not used" in first_login.prepare("a", connection, become, "", first)
    assert (connection["password"], become["become_pass"]) == ("own", "root's")


def test_the_login_password_is_sudos_where_nothing_else_is(tmp_path: Path) -> None:
    connection, become = Options(remote_user="ops", password="own"), Options()
    assert first_login.prepare("a", connection, become, "", "") == ""
    assert become["become_pass"] == "own"


@pytest.mark.parametrize("own", ["ec2-user", ""])
def test_the_account_may_be_named_in_either_place(own: str) -> None:
    connection = Options(remote_user=own)
    first_login.prepare("a", connection, None, "ec2-user", "")
    assert connection["remote_user"] == "ec2-user"


def test_two_accounts_are_refused_and_both_are_named() -> None:
    with pytest.raises(OperatorError, match="ds4_bootstrap_user is ec2-user.*inventory is admin") as refusal:
        first_login.prepare("a", Options(remote_user="admin"), None, "ec2-user", "")
    assert refusal.value.exit_code == EXIT_USAGE


def test_a_refusal_names_account_key_and_the_place_of_the_password() -> None:
    connection = Options(remote_user="ops", private_key_file="/k", password="own")
    assert (
        first_login.tried(connection) == "the account ops with the key /k and the password of the inventory"
    )
    assert first_login.tried(Options(), "f") == (
        "the account of ssh's own choice with the keys of ssh's own choice and the password in f"
    )
