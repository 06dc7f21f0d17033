"""The weights of the recurrent intent model: named arrays, a drawn set to start from, and their form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.intent.probes import HEADS, PRIORS, logit
from models.protocol import Float32, Float64, Ints, State

VERSION = "builtin-2"
"""Of the weights that come with the package."""
WIDTH = 32
"""Of the recurrent state."""
INNER = 24
"""Features that the heads see."""
EMBEDDED = 4
ITEM_ROWS = 4096
CATEGORY_ROWS = 512
_SEED = 20_240_611


@dataclass(frozen=True, slots=True)
class IntentWeights:
    """A minGRU over the session's events with two heads; see recurrent for what is computed of it."""

    version: str
    mean: Float32
    """float32[features], of the counters in training."""
    scale: Float32
    """float32[features], one over their standard deviation; 0 for one that never moved."""
    item: Float32
    """float32[ITEM_ROWS, EMBEDDED], by hash; row 0 is of items unknown to training and stays zero."""
    category: Float32
    """float32[CATEGORY_ROWS, EMBEDDED]."""
    into: Float32
    """float32[features + 2 EMBEDDED, 2 WIDTH + INNER]: gate, candidate, and past the recurrence."""
    into_bias: Float32
    """float32[2 WIDTH + INNER]."""
    out: Float32
    """float32[WIDTH, INNER]."""
    heads: Float64
    """float64[2, INNER + 1], purchase and cart; the constant last."""
    curvature: Float64
    """float64[2, INNER + 1, INNER + 1], of the training loss at `heads`, in rows: how much the heads resist being moved."""

    NAMES = ("mean", "scale", "item", "category", "into", "into_bias", "out", "heads", "curvature")

    def arrays(self) -> State:
        """By name, copied."""
        return {name: np.array(getattr(self, name)) for name in self.NAMES}

    @classmethod
    def of(cls, version: str, arrays: Mapping[str, NDArray[np.generic]]) -> IntentWeights:
        """What arrays() gave.

        Args:
            version: told with every prediction.
            arrays: by name.

        Raises:
            ValueError: an array is missing or has another form.
        """
        missing = [name for name in cls.NAMES if name not in arrays]
        if missing:
            raise ValueError(
                f"weights of the intent model must have {', '.join(cls.NAMES)}; got none of {', '.join(missing)}: train them anew"
            )
        features = len(arrays["mean"])
        forms = {
            "scale": (features,),
            "item": (ITEM_ROWS, EMBEDDED),
            "category": (CATEGORY_ROWS, EMBEDDED),
            "into": (features + 2 * EMBEDDED, 2 * WIDTH + INNER),
            "into_bias": (2 * WIDTH + INNER,),
            "out": (WIDTH, INNER),
            "heads": (len(HEADS), INNER + 1),
            "curvature": (len(HEADS), INNER + 1, INNER + 1),
        }
        for name, form in forms.items():
            if arrays[name].shape != form:
                raise ValueError(
                    f"weights {name!r} of the intent model must be {list(form)}; got {list(arrays[name].shape)}: train them anew"
                )
        wide = ("heads", "curvature")
        values: dict[str, Any] = {name: np.array(arrays[name], np.float64 if name in wide else np.float32) for name in cls.NAMES}
        return cls(version=version, **values)


def drawn(features: int, version: str = VERSION, bent: bool = False) -> IntentWeights:
    """A body drawn from a seed, with heads that say the prior: what there is before any training.

    Args:
        features: columns of the counters.
        version: its name.
        bent: what goes past the recurrence is bent, for a training to shape; where only the heads will learn, they learn most from what is
            hardly bent.
    """
    random = np.random.default_rng(_SEED)
    wide = features + 2 * EMBEDDED
    into = random.normal(size=(wide, 2 * WIDTH + INNER)) / np.sqrt(features)
    into[:, :WIDTH] *= 0.5
    into[:, WIDTH : 2 * WIDTH] *= 1.2
    into[:, 2 * WIDTH :] *= 1.0 if bent else 0.2
    # Gates that start from almost always open to remembering some twenty events.
    bias = np.concatenate([np.linspace(2.5, -3.0, WIDTH), random.normal(size=WIDTH) * 0.3, random.normal(size=INNER) * 0.1])
    heads = np.zeros((len(HEADS), INNER + 1))
    heads[:, -1] = [logit(prior) for prior in PRIORS]
    return IntentWeights(
        version=version,
        mean=np.zeros(features, np.float32),
        scale=np.ones(features, np.float32),
        item=np.zeros((ITEM_ROWS, EMBEDDED), np.float32),
        category=np.zeros((CATEGORY_ROWS, EMBEDDED), np.float32),
        into=into.astype(np.float32),
        into_bias=bias.astype(np.float32),
        out=(random.normal(size=(WIDTH, INNER)) * (1.5 if bent else 0.75) / np.sqrt(WIDTH)).astype(np.float32),
        heads=heads,
        curvature=np.zeros((len(HEADS), INNER + 1, INNER + 1)),
    )


def rows_of(hashes: Ints | None, rows: int, count: int) -> Ints:
    """int64[count], embedding rows of hashes; 0 for none.

    Args:
        hashes: int64[count], 0 for none.
        rows: of the table.
        count: how many.
    """
    if hashes is None:
        return np.zeros(count, np.int64)
    return np.where(hashes > 0, hashes % (rows - 1) + 1, 0)
