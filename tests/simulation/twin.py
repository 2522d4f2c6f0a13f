"""Be a second process in the directory of a member that runs, which has to end by itself."""

from __future__ import annotations

from kv.errors import BadRequest
from tests.simulation.loop import Process
from tests.simulation.node import SimNode, leaves


class Twin(SimNode):
    """The second process."""

    refused = ""
    """Why it has ended by itself."""

    @classmethod
    def of(cls, node: SimNode) -> Twin:
        """Return one beside a member."""
        twin = cls(node.world, node.name, node.members)
        twin.disk, twin.file, twin.level = node.disk, node.file, node.level
        return twin

    def _choose_version(self) -> None:
        """Leave the version of the member as it is."""

    def _ended(self, process: Process, failure: BaseException | None) -> None:
        causes = [cause for cause in leaves(failure) if isinstance(cause, BadRequest)]
        self.refused = causes[0].code if causes else repr(failure)
        self.crash(power=False)

    def crash(self, *, power: bool) -> None:
        """End this process alone: disk, file and address are the member's."""
        if self.process is not None and self.process.alive:
            self.process.alive = self.serving = False
            if self.own is not None:
                self.own.crash()
            self.process.kill()
