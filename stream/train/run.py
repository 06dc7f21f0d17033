"""One training of every bucket size: look, learn, judge on the newest part, learn from everything, make the artefact."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from models.demand.encoder import Layout
from models.demand.network import Shape, Weights
from models.protocol import DemandSpec
from models.train.artefact import Arrays, arrays_of, layout_dict, shape_dict
from models.train.card import Card, Data, version_name
from models.train.fit import Examples
from models.train.judge import scores
from models.train.learning import Fitted, Options, Record, refit, train
from models.train.trainer import Trainer
from stream.config import Config
from stream.engine.forecast import Swap
from stream.engine.time import Grid
from stream.state.artefacts import digest
from stream.train.course import Course, Cut, Known, Tell, cut, deepened, survey
from stream.train.history import History

logger = logging.getLogger("nowcart.train")

HELD_OUT = 0.15
LEAST_BUCKETS = 24
LEAST_EXAMPLES = 200
_CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a training."""

    members: int = 1
    seed: int = 0
    options: Options = field(default_factory=Options)
    shape: Shape = field(default_factory=Shape)
    held_out: float = HELD_OUT
    sizes: tuple[str, ...] = ()
    """Bucket sizes; none: all."""
    trees: bool | None = None
    """Whether to train trees beside the networks; None: for buckets of a day or a week."""


@dataclass(frozen=True, slots=True)
class Made:
    """A version that was trained, written nowhere yet."""

    card: Card
    arrays: Arrays
    weights: Weights

    @property
    def better(self) -> bool:
        """Whether its twin beat the untrained engine on the held-out part."""
        with_it, without = (self.card.metrics[name]["wql"] for name in ("network", "untrained"))
        return with_it is not None and without is not None and with_it < without


def train_all(config: Config, history: History, plan: Plan, tell: Tell, record: Record) -> list[Made]:
    """Trains every bucket size for which there is enough.

    Args:
        config: the user's.
        history: is read three times, the last time its newest part only.
        plan: how.
        tell: progress.
        record: curves.
    """
    found = survey(history, tell)
    specs = {part.demand.size: part.demand for part in deepened(history.spec).resolutions}
    wanted = {size: spec for size, spec in specs.items() if not plan.sizes or size in plan.sizes}
    cuts: dict[str, Cut] = {}
    for size, spec in wanted.items():
        made = cut(found[size], spec.horizon, plan.held_out, LEAST_BUCKETS)
        if made is None:
            logger.warning("%s: the history is too short for buckets of %s; it is left out", history.source, size)
        else:
            cuts[size] = made
    if not cuts:
        return []
    course = Course(history, {size: found[size].layout(specs[size]) for size in cuts}, cuts)
    course.run(tell)
    done = []
    for size in cuts:
        version = _train(config, course, specs[size], found[size], plan, tell, record)
        if version is not None:
            done.append(version)
    return done


def _train(config: Config, course: Course, spec: DemandSpec, known: Known, plan: Plan, tell: Tell, record: Record) -> Made | None:
    size, at = spec.size, course.cuts[spec.size]
    examples, newest = course.examples(size, at.early), course.examples(size, at.held_out, at.early)
    if len(examples) < LEAST_EXAMPLES or not len(newest):
        logger.warning("%s: %d examples of buckets of %s are too few; it is left out", course.history.source, len(examples), size)
        return None
    layout = course.layouts[size]
    trainer = Trainer(spec, layout, plan.members, plan.seed, plan.shape, plan.trees)
    fitted = train(trainer, examples, newest, plan.options, _CANDIDATE, _of(size, tell), record)
    judged = course.trained(size, Swap(size, _CANDIDATE, 0, fitted.weights), _of(size, tell))
    untrained = course.untrained(size)
    grid = Grid(size, course.history.spec.zone)
    metrics: dict[str, dict[str, Any]] = {
        "network": scores(judged),
        "untrained": scores(untrained),
        "held_out": {"from_ms": grid.end_of(at.held_out), "until_ms": grid.end_of(at.end)},
    }
    for name in ("network", "untrained"):
        wql = metrics[name]["wql"]
        if wql is not None:
            record(f"{size}/held_out_wql/{name}", wql, 0)
    everything = course.examples(size, at.end)
    weights = refit(trainer, everything, fitted, plan.options, _CANDIDATE, _of(size, tell))
    data = Data(
        source=course.history.source,
        first_ms=grid.start_of(at.first),
        until_ms=grid.end_of(at.end),
        examples=len(everything),
        items=known.items,
    )
    return finish(config, weights, trainer, fitted, everything, data, metrics, plan)


def finish(
    config: Config,
    weights: Weights,
    trainer: Trainer,
    fitted: Fitted,
    examples: Examples,
    data: Data,
    metrics: Mapping[str, Any],
    plan: Plan,
    follows: str = "",
) -> Made:
    """Names the weights and writes their card.

    Args:
        config: the user's.
        weights: under any name.
        trainer: that made them.
        fitted: says how.
        examples: that they saw.
        data: of the card.
        metrics: of the card.
        plan: how.
        follows: the version that they carry on from.
    """
    arrays = arrays_of(weights)
    sha256, size = digest(arrays)
    version = version_name("demand", weights.size, data.until_ms, sha256)
    recipe = dataclasses.asdict(trainer.recipe(examples)) | {
        "epochs": fitted.epochs,
        "pretrained": fitted.pretrained,
        "finetune": plan.options.finetune,
        "newest_loss": fitted.loss,
        "trees": weights.trees is not None,
    }
    card = Card(
        version=version,
        size=weights.size,
        horizon=weights.layout.horizon,
        levels=weights.levels,
        layout=layout_dict(weights.layout),
        shape=shape_dict(trainer.shape),
        follows=follows,
        data=data,
        metrics=dict(metrics),
        recipe=recipe,
        seed=plan.seed,
        checksum=config.checksum(),
        versions={name: metadata.version(name) for name in ("nowcart", "numpy", "torch")},
        sha256=sha256,
        bytes=size,
    )
    return Made(card, arrays, dataclasses.replace(weights, version=version))


def _of(size: str, tell: Tell) -> Tell:
    return lambda what, done: tell(f"{size}: {what}", done)


__all__ = ["HELD_OUT", "Layout", "Made", "Plan", "finish", "train_all"]
