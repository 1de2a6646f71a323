"""Full collections of garbage do not look at what stays for the whole run."""

from __future__ import annotations

import gc
import weakref

from agentsft.train.garbage import WARM_UP, Garbage


class Thing:
    def __init__(self) -> None:
        self.itself = self


def test_what_the_first_steps_leave_is_set_aside_until_the_end_and_their_garbage_is_not() -> None:
    before = gc.get_freeze_count()
    with Garbage(active=True) as garbage:
        stays, lost = Thing(), weakref.ref(Thing())
        for _ in range(WARM_UP):
            garbage.after_step()
        assert lost() is None
        assert gc.get_freeze_count() > before + 1000
        assert not any(one is stays for one in gc.get_objects())
        later, frozen = Thing(), gc.get_freeze_count()
        garbage.after_step()
        assert gc.get_freeze_count() <= frozen  # fewer where something that was set aside is no longer held
        assert any(one is later for one in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(one is stays for one in gc.get_objects())


def test_nothing_is_set_aside_unless_asked_for() -> None:
    with Garbage(active=False) as garbage:
        frozen = gc.get_freeze_count()
        garbage.after_step()
        assert gc.get_freeze_count() == frozen
