"""Champion and shadows: shards that see the same blocks, one with the weights in use, the others with weights that might be better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.demand.network import Weights
from models.train.evidence import ALPHA, Bettor, difference
from models.train.judge import Judge, Sums
from models.train.recorder import Recorder
from stream.engine.activity import Block
from stream.engine.forecast import BUILTIN, ForecastShard, ForecastSpec, Swap
from stream.engine.resolution import Resolution
from stream.engine.state import forecast_state, restore_forecast

GIVE_UP = 250
"""Buckets after which a shadow that has not proved better is let go."""
HOPELESS = 20
"""The same of one that has so far lost more than the champion."""


@dataclass(slots=True)
class Shadow:
    """Another version's shard for one bucket size of one part."""

    shard: ForecastShard
    judge: Judge


@dataclass(slots=True)
class Part:
    """One partition of the activity topic."""

    champion: ForecastShard
    judges: dict[str, Judge]
    recorders: dict[str, Recorder]
    position: int = 0
    shadows: dict[tuple[str, str], Shadow] = field(default_factory=dict)
    """(size, version) -> its shard."""

    @staticmethod
    def fresh(spec: ForecastSpec, recorders: dict[str, Recorder]) -> Part:
        """Before the first block."""
        shard, judges = ForecastShard(spec), {}
        for resolution in shard.resolutions:
            resolution.forecaster.watch = recorders.get(resolution.spec.size)
            judges[resolution.spec.size] = Judge(resolution.forecaster).attach()
        return Part(shard, judges, recorders)

    @property
    def watermark_ms(self) -> int | None:
        """Everything before it has been seen."""
        return self.champion.watermark_ms

    def step(self, at: int, block: Block) -> None:
        """Takes a block with all shards; what they publish is scored when its buckets close, and nobody's else."""
        for shard in (self.champion, *(shadow.shard for shadow in self.shadows.values())):
            for _ in shard.step(block):
                pass
        self.position = at

    def resolution(self, size: str) -> Resolution:
        """The champion's."""
        return resolution_of(self.champion, size)

    def fork(self, size: str, version: str, weights: Weights | None, follows: str, known: Mapping[str, Weights]) -> None:
        """Lets a shadow go on from the champion's state with other weights; with the champion's own version, with those.

        Args:
            size: the bucket size.
            version: the shadow's.
            weights: the shadow's; None: those that came with the package.
            follows: of its card.
            known: weights of the champion, by version.
        """
        shard = ForecastShard(self.champion.spec)
        restore_forecast(shard, {name: array.copy() for name, array in forecast_state(self.champion).items()}, known)
        resolution = resolution_of(shard, size)
        closed = resolution.windows.closed
        judge = Judge(resolution.forecaster, since=0 if closed is None else closed + 1).attach()
        shard.tell(Swap(size, version, 0, weights, follows))
        self.shadows[size, version] = Shadow(shard, judge)


def resolution_of(shard: ForecastShard, size: str) -> Resolution:
    """A bucket size of a shard."""
    return next(resolution for resolution in shard.resolutions if resolution.spec.size == size)


@dataclass(slots=True)
class Duel:
    """The evidence that a shadow is better than the champion.

    The bet is on the next bucket's forecast (step 1), the only one whose outcomes come one after the other, as the test wants them. Further steps
    must not have become worse: a condition more, which can only make a wrong promotion rarer.
    """

    size: str
    version: str
    bettor: Bettor = field(default_factory=Bettor)
    further: tuple[float, float] = (0.0, 0.0)
    """Losses of the champion and of the shadow at the further probe steps."""
    scored: int | None = None
    """The last bucket that was compared."""

    def look(self, parts: list[Part]) -> None:
        """Compares every bucket that all parts have closed since.

        Args:
            parts: those in which the shadow is.
        """
        key = (self.size, self.version)
        mine = [part for part in parts if key in part.shadows]
        if not mine or len(mine) < len([part for part in parts if part.resolution(self.size).windows.closed is not None]):
            return
        since = max(part.shadows[key].judge.since for part in mine)
        closed = [part.resolution(self.size).windows.closed for part in mine]
        last = min(bucket for bucket in closed if bucket is not None)
        for bucket in range(since + 1 if self.scored is None else self.scored + 1, last + 1):
            champion = _added(part.judges[self.size].sums.get(bucket) for part in mine)
            shadow = _added(part.shadows[key].judge.sums.pop(bucket, None) for part in mine)
            for probe in champion.keys() & shadow.keys():
                if bucket - probe < since or champion[probe].count != shadow[probe].count or not champion[probe].count:
                    continue
                if probe == 1:
                    self.bettor.see(difference(champion[probe].pinball, shadow[probe].pinball))
                else:
                    self.further = (self.further[0] + champion[probe].pinball, self.further[1] + shadow[probe].pinball)
            self.scored = bucket

    @property
    def won(self) -> bool:
        """Whether the shadow has proved better."""
        return self.bettor.better and self.further[1] <= self.further[0]

    @property
    def lost(self) -> bool:
        """Whether it is no longer worth its time."""
        count = self.bettor.count
        return count >= GIVE_UP or (count >= HOPELESS and self.bettor.mean <= 0)

    def __str__(self) -> str:
        return f"{self.bettor.count} buckets, wealth {self.bettor.wealth:.3g} of {1 / ALPHA:.0f}, mean advantage {self.bettor.mean:+.3f}"


def _added(each: object) -> dict[int, Sums]:
    total: dict[int, Sums] = {}
    for by_probe in each:  # type: ignore[attr-defined]
        for probe, sums in (by_probe or {}).items():
            total[probe] = total.get(probe, Sums()) + sums
    return total


__all__ = ["BUILTIN", "Duel", "Part", "Shadow", "resolution_of"]
