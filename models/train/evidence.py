"""Whether a challenger is better than the champion, decided at any time, with a bounded chance of being wrong.

A bettor without money of their own bets, before each closed bucket, that the challenger will lose less. Their wealth

    W_t = mean over λ of Π (1 + λ d_s),   d_s in [-1, 1] how much less the challenger lost at s,   λ in BETS, fixed beforehand

is a nonnegative supermartingale whenever the challenger is not better (E[d_s | what came before] <= 0 at every s), so by Ville's inequality it ever
reaches 1/α with a probability of at most α, however often one looks and whenever one stops. Source: Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 86 (2024), with a mixture over a grid of bets: betting by the mean so far bet too much too early
(in a shop of days it took twice as long). Nothing is assumed of how losses are distributed, and they
need not be independent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALPHA = 0.05
"""Probability that a challenger which is not better is ever promoted."""

WIDTH = 0.2
"""Relative difference in loss at which a bucket's evidence is capped: one odd bucket decides nothing."""

BETS = (0.05, 0.1, 0.2, 0.4, 0.75)
"""Shares of wealth that are bet, side by side: the best of them for small and for large advantages, at the cost of a factor of five."""


@dataclass(slots=True)
class Bettor:
    """Wealth, and what the next bet rests on."""

    alpha: float = ALPHA
    most: float = 1.0
    """The largest wealth so far: what has once been won stays won (Ville's inequality is about all times)."""
    count: int = 0
    _sum: float = 0.0
    _wealths: list[float] = field(default_factory=lambda: [1.0] * len(BETS))

    @property
    def wealth(self) -> float:
        """Of all bets together."""
        return sum(self._wealths) / len(BETS)

    def see(self, difference: float) -> None:
        """A bucket has closed.

        Args:
            difference: in [-1, 1]; above 0: the challenger lost less.
        """
        assert -1.0 <= difference <= 1.0, difference
        self._wealths = [wealth * (1.0 + bet * difference) for wealth, bet in zip(self._wealths, BETS, strict=True)]
        self.most = max(self.most, self.wealth)
        self.count += 1
        self._sum += difference

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
