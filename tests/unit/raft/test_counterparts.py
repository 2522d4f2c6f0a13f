"""Every published reproduction has its counterpart among the hazards tested here: shown on the
library, not on ours.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.evidence.__main__ import PUBLISHED
from tests.unit.raft import test_hazards as hazards

COUNTERPARTS: dict[str, tuple[Any, ...]] = {
    "acked_truncation": (hazards.test_acknowledged_entries_are_truncated,),
    "stale_ack": (hazards.test_an_ack_of_an_earlier_term_is_counted,),
    "divergent_follower": (hazards.test_a_follower_with_a_stale_entry_never_rejoins,),
    "poison_command": (
        hazards.test_a_raising_command_stops_the_cluster,
        hazards.test_a_raising_callback_applies_twice,
    ),
    "compaction_kill": (
        hazards.test_entries_behind_a_dump_are_lost_when_the_journal_was_not_trimmed,
    ),
    "journal_rewrite_kill": (
        hazards.test_a_journal_is_cut_short_when_it_dies_while_it_drops_its_oldest,
    ),
    "journal_without_dump": (hazards.test_a_journal_without_a_dump_is_taken,),
    "stale_leader_read": (hazards.test_a_superseded_leader_goes_on,),
    "double_vote": (
        hazards.test_one_voter_elects_two_leaders_in_a_term,
        hazards.test_a_repeated_vote_is_counted_twice,
    ),
    "concurrent_membership": (hazards.test_membership_changes_overlap,),
    "snapshot_flap": (hazards.test_a_reconnect_corrupts_a_snapshot,),
    "chunk_double_finish": (hazards.test_a_large_entry_is_cut_wrongly,),
    "wake_pipe_overflow": (hazards.test_a_submit_raises_although_it_was_queued,),
}


def test_every_published_script_has_one() -> None:
    assert set(COUNTERPARTS) == {
        path.stem for path in PUBLISHED.glob("*.py") if path.stem != "__init__"
    }


@pytest.mark.parametrize("script", COUNTERPARTS)
def test_it_is_shown_on_the_library_and_not_on_ours(script: str) -> None:
    for test in COUNTERPARTS[script]:
        mark = next(mark for mark in test.pytestmark if mark.name == "parametrize")
        shown = {
            name: values[-1] for name, values in zip(mark.kwargs["ids"], mark.args[1], strict=True)
        }
        assert shown == {"stock": True, "ours": False}
