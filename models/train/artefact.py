"""Weights as arrays by name and a card, and back. Where they are kept is not decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.demand.encoder import Layout
from models.demand.network import Member, Shape, Weights
from models.demand.trees import trees_of
from models.train.card import Card, CardError

Arrays = dict[str, NDArray[Any]]


def arrays_of(weights: Weights) -> Arrays:
    """Every parameter and buffer of every member: "0.first.weight" and so on; and the trees'.

    Args:
        weights: not changed.
    """
    found: Arrays = {} if weights.trees is None else weights.trees.arrays()
    for number, member in enumerate(weights.members):
        for name, value in member.state_dict().items():
            found[f"{number}.{name}"] = np.ascontiguousarray(value.detach().cpu().numpy())
    return found


def weights_of(card: Card, arrays: Mapping[str, NDArray[Any]]) -> Weights:
    """The weights that a card describes.

    Args:
        card: theirs.
        arrays: as arrays_of() gave them.

    Raises:
        CardError: the arrays are not those of such a network.
    """
    try:
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in card.layout.items()}
        layout = Layout(**given)
        shape = Shape(**card.shape)
    except TypeError as error:
        raise CardError(f"{card.version}: its layout or shape is not one that this nowcart knows ({error}): train it anew") from None
    members = []
    with torch.random.fork_rng(devices=[]):  # a fresh member draws its weights, which nobody wants here
        for number in range(shape.members):
            member = Member(layout, len(card.levels), shape)
            wanted = member.state_dict()
            found: dict[str, torch.Tensor] = {}
            for name, value in wanted.items():
                array = arrays.get(f"{number}.{name}")
                if array is None and name in ("low", "high"):  # trained before networks knew how far they had seen
                    found[name] = value
                    continue
                if array is None or tuple(array.shape) != tuple(value.shape) or not np.isfinite(array).all():
                    got = (
                        "nothing"
                        if array is None
                        else f"shape {list(array.shape)}"
                        if np.isfinite(array).all()
                        else "values that are not finite"
                    )
                    raise CardError(
                        f"{card.version}: {name} of member {number} must be finite numbers of shape {list(value.shape)}; got {got}: train it anew"
                    )
                found[name] = torch.from_numpy(np.array(array, np.float32))
            member.load_state_dict(found)
            members.append(member.eval())
    try:
        trees = trees_of(arrays, layout, len(card.levels))
    except ValueError as error:
        raise CardError(f"{card.version}: its trees cannot be read ({error}): train it anew") from None
    return Weights(card.version, card.size, layout, tuple(card.levels), tuple(members), trees)


def layout_dict(layout: Layout) -> dict[str, Any]:
    """A layout as a card holds it."""
    return asdict(layout)


def shape_dict(shape: Shape) -> dict[str, int]:
    """A shape as a card holds it."""
    return asdict(shape)
