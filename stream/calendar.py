"""Public holidays by country, as the package `holidays` has them. No other module knows it."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stream.engine.time import DAY_MS, Zone
from stream.tables import UserError

_FIRST_YEAR, _LAST_YEAR = 1990, 2060
_EPOCH = dt.date(1970, 1, 1).toordinal()


@lru_cache(maxsize=4)
def holiday_days(place: str) -> tuple[int, ...]:
    """All public holidays from 1990 to 2060, as they are known today: days since 1970-01-01, ascending.

    Args:
        place: a country by its ISO 3166 code, or one and a part of it: GB, GB-SCT, US-CA.

    Raises:
        UserError: there is no such country or part.
    """
    import holidays  # a tenth of a second, and few need it

    country, _, part = place.upper().partition("-")
    parts = holidays.list_supported_countries(include_aliases=False)
    if country not in parts:
        raise UserError(f'must be a country by its ISO 3166 code, such as "GB", or a part of one, such as "US-CA"; got "{place}"')
    if part and part not in parts[country]:
        known = f"its parts are {', '.join(parts[country])}" if parts[country] else "it has no parts"
        raise UserError(f'must be a country or a part of one; got "{place}", and {country} has no such part: {known}')
    found = holidays.country_holidays(country, subdiv=part or None, years=range(_FIRST_YEAR, _LAST_YEAR + 1))
    return tuple(sorted(day.toordinal() - _EPOCH for day in found))


def holiday_shares(days: tuple[int, ...], edges_ms: NDArray[np.int64], zone: Zone) -> NDArray[np.float64]:
    """float64[n], which share of the local days of each bucket is a holiday; a bucket within a day is a holiday or is not.

    Args:
        days: of holiday_days().
        edges_ms: int64[n + 1], epoch ms at which the buckets begin, and at which the last of them ends.
        zone: of local days.
    """
    day = zone.to_local_ms(edges_ms) // DAY_MS
    first, stop = day[:-1], np.maximum(day[1:], day[:-1] + 1)
    every = np.array(days, dtype=np.int64)
    return np.asarray((np.searchsorted(every, stop) - np.searchsorted(every, first)) / (stop - first), dtype=np.float64)
