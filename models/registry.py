"""Every model by name. The conformance suite walks these tables: a model that is not here does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.demand.ar_k import ARK
from models.demand.autoregression import Autoregression
from models.demand.decomposition import Decomposition
from models.demand.elasticity import Elasticity
from models.demand.empirical import Empirical
from models.demand.ewma import EWMA
from models.demand.global_net import GlobalNet
from models.demand.holt_winters import HoltWinters
from models.demand.network_experts import Boosted, NetworkAdapted, NetworkCounts, NetworkExpert
from models.demand.river_linear import RiverLinear
from models.demand.seasonal_naive import SeasonalNaive
from models.demand.tsb import TSB
from models.intent.logistic import LogisticIntent
from models.intent.recurrent import RecurrentIntent
from models.intent.scorer import IntentScorer
from models.intent.tree import TreeIntent

if TYPE_CHECKING:
    from models.demand.expert import Expert

DEMAND: dict[str, type[Expert]] = {
    expert.name: expert
    for expert in (
        SeasonalNaive,
        EWMA,
        TSB,
        RiverLinear,
        GlobalNet,
        Empirical,
        Decomposition,
        HoltWinters,
        Autoregression,
        Elasticity,
        ARK,
        NetworkExpert,
        NetworkCounts,
        NetworkAdapted,
        Boosted,
    )
}
"""Experts for demand."""

INTENT: dict[str, type[LogisticIntent | RecurrentIntent | TreeIntent | IntentScorer]] = {
    model.name: model for model in (LogisticIntent, RecurrentIntent, TreeIntent, IntentScorer)
}
"""Scorers of intent; the last is the council of the others."""
