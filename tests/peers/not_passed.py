"""List every test of others' suites that does not pass, with its reason. A test that is neither
here nor passes fails the run, and so does one that is here and passes.
"""

from __future__ import annotations

from typing import Final


def _tooz(reason: str, *names: str) -> dict[str, str]:
    return {f"tooz: TestAPI.{name}": reason for name in names}


SKIPPED_BY_THE_DRIVER: Final[dict[str, str]] = {
    **_tooz(
        "tooz's driver for etcd does not say that it works across hosts",
        "test_connection_error_bad_host",
    ),
    **_tooz(
        "tooz's driver for etcd has no shared locks",
        "test_get_lock_locking_exclusive_and_shared",
        "test_get_lock_locking_shared_and_exclusive",
        "test_get_shared_lock",
        "test_get_shared_lock_locking_same_lock_twice",
        "test_get_shared_lock_locking_two_lock",
    ),
    **_tooz(
        "tooz's driver for etcd has no member info",
        "test_get_member_info",
        "test_get_member_info_complex",
        "test_get_member_info_nonexistent_group",
        "test_get_member_info_nonjoined_member",
    ),
    **_tooz(
        "tooz's driver for etcd takes members' names as bytes only",
        "test_get_members_str_member_id",
    ),
    **_tooz(
        "tooz's driver for etcd has no elections",
        "test_get_leader",
        "test_run_for_election",
        "test_run_for_election_multiple_clients",
        "test_run_for_election_multiple_clients_stand_down",
        "test_unwatch_elected_as_leader",
        "test_unwatch_elected_as_leader_callback_not_found",
    ),
    **_tooz("tooz's driver for etcd is not based on time-outs", "test_timeout"),
}
"""Tests that a suite skips by itself, on etcd as on Acordo."""

ON_ACORDO: Final[dict[str, str]] = {}
"""Tests that pass on etcd and not on Acordo."""
