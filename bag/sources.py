"""Where a recorder receives from: one topic at one address, and what is known of who speaks there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Source:
    """One topic at one address. `channel` is its number in the bag, `period_ns` thins it out when it is not 0.

    `reborn`: its connection broke after messages had come, so the next one is another publisher's, whatever its number.
    `leaving`: to be left as soon as the connection breaks.
    """

    channel: int
    topic: bytes
    address: str
    connected: bool = False
    period_ns: int = 0
    next_ns: int = 0
    heard: bool = False
    reborn: bool = False
    leaving: bool = False

    @property
    def local(self) -> bool:
        """Whether it comes from this machine, over ipc."""
        return self.address.startswith("ipc:")

    def take_over(self, left: Source) -> None:
        """Go on where the same topic at the same address was about to be left."""
        self.channel, self.connected, self.heard, self.reborn = left.channel, left.connected, left.heard, left.reborn

    # where they may be mixed already, and over TCP, where the same publisher may come back, its numbers tell
    def has_broken(self, *, mixed: bool) -> None:
        """Its connection has; `mixed`: messages of the next one may be among those that were taken."""
        if self.heard and self.local and not mixed:
            self.reborn, self.heard = True, False

    # due times stand on a grid, so that 30 Hz thinned to 10 Hz gives 10 Hz and not 7.5
    def is_due(self, now_ns: int) -> bool:
        """Whether thinning keeps what came at this time of the monotonic clock (ns); if so, the next one is awaited."""
        late_ns = now_ns - self.next_ns
        if late_ns < 0:
            return False
        self.next_ns = (self.next_ns if late_ns < self.period_ns else now_ns) + self.period_ns
        return True
