"""Whether a challenger is better than the champion, decided at any time, with a bounded chance of being wrong.

A bettor without money of their own bets, before each closed bucket, that the challenger will lose less. Their wealth

    W_t = Π (1 + λ_s d_s),   d_s in [-1, 1] how much less the challenger lost at s,   0 <= λ_s <= 3/4 chosen from d_1 … d_{s-1} alone

is a nonnegative supermartingale whenever the challenger is not better (E[d_s | what came before] <= 0 at every s), so by Ville's inequality it ever
reaches 1/α with a probability of at most α, however often one looks and whenever one stops. Source: Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 86 (2024); λ is their approximate GRAPA bet. Nothing is assumed of how losses are distributed, and they
need not be independent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALPHA = 0.05
"""Probability that a challenger which is not better is ever promoted."""

WIDTH = 0.2
"""Relative difference in loss at which a bucket's evidence is capped: one odd bucket decides nothing."""

_MOST = 0.75
_PRIOR_SQUARE = 0.25


@dataclass(slots=True)
class Bettor:
    """Wealth, and what the next bet rests on."""

    alpha: float = ALPHA
    wealth: float = 1.0
    most: float = 1.0
    """The largest wealth so far: what has once been won stays won (Ville's inequality is about all times)."""
    count: int = 0
    _sum: float = 0.0
    _squares: float = field(default=_PRIOR_SQUARE)

    def see(self, difference: float) -> None:
        """A bucket has closed.

        Args:
            difference: in [-1, 1]; above 0: the challenger lost less.
        """
        assert -1.0 <= difference <= 1.0, difference
        self.wealth *= 1.0 + self.bet * difference
        self.most = max(self.most, self.wealth)
        self.count += 1
        self._sum += difference
        self._squares += difference * difference

    @property
    def bet(self) -> float:
        """The share λ of wealth that is bet next: mean over mean square of what was seen, which nearly maximises growth."""
        mean = self._sum / (self.count + 1)
        square = self._squares / (self.count + 1)
        return min(max(mean / max(square, 1e-9), 0.0), _MOST)

    @property
    def better(self) -> bool:
        """Whether the challenger has proved better."""
        return self.most >= 1.0 / self.alpha

    @property
    def mean(self) -> float:
        """Of the differences."""
        return self._sum / max(self.count, 1)


def difference(champion: float, challenger: float) -> float:
    """How much less the challenger lost, relative to both, in [-1, 1].

    Args:
        champion: its loss over a bucket, at least 0.
        challenger: the same items'.
    """
    both = 0.5 * (champion + challenger)
    if both <= 0.0:
        return 0.0
    return min(max((champion - challenger) / both / WIDTH, -1.0), 1.0)
