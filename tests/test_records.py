"""Published records: against their schemas, and number by number against the columns that they came from."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jsonschema import Draft202012Validator

from stream import records, schemas
from stream.engine.columns import MICRO, DemandColumns, ForecastColumns, IntentColumns, SpikeColumns

VALIDATORS = {name: Draft202012Validator({"$schema": schemas.DIALECT, **schema}) for name, schema in schemas.schemas().items()}

SMALLEST = float(np.float32(1e-30))
"""What is below is printed as 0 in a forecast."""

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
amounts = st.floats(0, 2.0**127, width=32) | st.sampled_from([0.0, 1.0, 9999.5, 99995.0, 0.00099995, 1e-30, 1e-45, 1e15, 1e16])
shares = st.floats(0, 1)
micros = st.integers(0, 10**6).map(lambda n: n * MICRO) | st.integers(0, 10**15)


def four_digits(value: float) -> float:
    return float(f"{value:.3e}")


def same_but_for_ties(got: float, value: float) -> bool:
    """Four digits of the value: the nearest such number, or either neighbour of an exact half."""
    if got == four_digits(value):
        return True
    exact = Decimal(value)
    return math.isclose(abs(Decimal(got) - exact), abs(Decimal(four_digits(value)) - exact), rel_tol=1e-9)


@st.composite
def demand_columns(draw: st.DrawFn) -> DemandColumns:
    n, horizon = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    levels = tuple(sorted(draw(st.sets(st.sampled_from([0.00001, 0.01, 0.1, 0.25, 0.5, 0.975, 0.999]), min_size=1))))
    steps = draw(st.lists(st.sampled_from([1, 7, 14]), unique=True))
    corrects = draw(st.booleans())

    def floats(*shape: int, of: st.SearchStrategy[float] = amounts) -> np.ndarray[Any, np.dtype[np.float32]]:
        return draw(arrays.arrays(np.float32, shape, elements=of.map(np.float32)))

    forecast = None
    if not corrects or draw(st.booleans()):
        classes = draw(st.integers(1, 3))
        forecast = ForecastColumns(
            mean=floats(n, horizon),
            quantiles=floats(n, len(levels), horizon),
            p_zero=floats(n, horizon, of=shares),
            totals={step: floats(n, len(levels)) for step in steps},
            weights_row=draw(arrays.arrays(np.int64, n, elements=st.integers(0, classes - 1))),
            weights=[{"1": {"ewma": draw(shares), 'odd "name"': draw(shares)}, "24": {}} for _ in range(classes)],
        )

    def counts(of: st.SearchStrategy[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        return draw(arrays.arrays(np.int64, n, elements=of))

    few = st.integers(0, 10**9)
    return DemandColumns(
        item=draw(st.lists(ids, min_size=n, max_size=n)),
        bucket=draw(st.sampled_from(["1m", "1h", "1w"])),
        bucket_start_ms=draw(st.integers(-(10**12), 10**13)),
        issued_at_ms=draw(st.integers(-(10**12), 10**13)),
        observed=counts(micros),
        returned=counts(micros),
        orders=counts(few),
        views=counts(few),
        carts=counts(few),
        censored=draw(arrays.arrays(np.float64, n, elements=shares)),
        whole=np.zeros(n, dtype=np.bool_),
        corrects=corrects,
        forecast=forecast,
        levels=levels,
        model_version=draw(ids),
    )


def one_step(mean: np.ndarray[Any, np.dtype[np.float32]]) -> DemandColumns:
    """Forecasts of one step with these means, and zeros for the rest."""
    n = len(mean)
    nothing = np.zeros(n, dtype=np.int64)
    none = np.zeros((n, 1), dtype=np.float32)
    return DemandColumns(
        item=[str(i) for i in range(n)],
        bucket="1h",
        bucket_start_ms=0,
        issued_at_ms=3_600_000,
        observed=nothing,
        returned=nothing,
        orders=nothing,
        views=nothing,
        carts=nothing,
        censored=np.zeros(n),
        whole=nothing == 0,
        corrects=False,
        forecast=ForecastColumns(mean[:, None], none[:, None], none, {}, nothing, [{}]),
        levels=(0.5,),
        model_version="m",
    )


def check(name: str, value: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(value)
    VALIDATORS[name].validate(record)
    assert set(record) <= set(schemas.schemas()[name]["properties"])
    return record


@given(demand_columns(), st.integers(1, 5))
def test_demand_records_say_what_the_columns_say(columns: DemandColumns, chunk: int) -> None:
    chunks = list(records.encode_demand(columns, chunk))
    assert [len(keys) for keys, _, _ in chunks] == [min(chunk, len(columns) - at) for at in range(0, len(columns), chunk)]
    for keys, values, size in chunks:
        assert size == sum(len(key) + len(value) for key, value in zip(keys, values, strict=True))
    pairs = [pair for keys, values, _ in chunks for pair in zip(keys, values, strict=True)]
    assert [key.decode() for key, _ in pairs] == columns.item
    for i, (_, value) in enumerate(pairs):
        record = check("demand", value)
        assert record["item"] == columns.item[i]
        assert (record["bucket"], record["bucket_start_ms"], record["issued_at_ms"]) == (
            columns.bucket,
            columns.bucket_start_ms,
            columns.issued_at_ms,
        )
        exact = json.loads(value, parse_float=Decimal)
        assert exact["observed"] * MICRO == int(columns.observed[i])
        assert exact["returned"] * MICRO == int(columns.returned[i])
        assert [record[name] for name in ("orders", "views", "carts")] == [columns.orders[i], columns.views[i], columns.carts[i]]
        assert same_but_for_ties(record["censored"], columns.censored[i])
        assert record.get("corrects") is (True if columns.corrects else None)
        assert record["model_version"] == columns.model_version
        if columns.forecast is None:
            assert not set(record) & set(schemas.FORECAST_FIELDS)
        else:
            check_forecast(record, columns.forecast, columns.levels, i)


def check_forecast(record: dict[str, Any], forecast: ForecastColumns, levels: tuple[float, ...], i: int) -> None:
    assert list(record["quantiles"]) == [str(level) for level in levels]
    assert list(record["totals"]) == [str(steps) for steps in forecast.totals]
    pairs = [
        (record["mean"], forecast.mean[i]),
        (record["p_zero"], forecast.p_zero[i]),
        *((record["quantiles"][str(level)], forecast.quantiles[i, at]) for at, level in enumerate(levels)),
        *((list(record["totals"][str(steps)].values()), total[i]) for steps, total in forecast.totals.items()),
    ]
    for got, values in pairs:
        assert len(got) == len(values)
        for number, value in zip(got, values.tolist(), strict=True):
            assert same_but_for_ties(number, value if value >= SMALLEST else 0.0)
            assert isinstance(number, int) == (number == int(number) and number < 1e15)
    weights = forecast.weights[forecast.weights_row[i]]
    assert record["experts"] == {
        group: {expert: pytest.approx(weight, rel=1e-3) for expert, weight in experts.items()} for group, experts in weights.items()
    }


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_forecast_that_cannot_be_is_not_published(bad: float) -> None:
    columns = one_step(np.array([1, bad], dtype=np.float32))
    with pytest.raises(ValueError, match="finite"):
        list(records.encode_demand(columns))


@given(
    st.lists(st.tuples(ids, st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 10**9), shares, shares)),
    st.booleans(),
    st.integers(0, 7),
)
def test_intent_records_say_what_the_columns_say(rows: list[tuple[str, str, int, float, float]], with_users: bool, flags: int) -> None:
    n = len(rows)
    bits = [np.array([bool(flags >> bit & 1) ^ bool(i & 1) for i in range(n)], dtype=np.bool_) for bit in range(3)]
    columns = IntentColumns(
        session=[row[0] for row in rows],
        user=[row[1] for row in rows] if with_users else None,
        issued_at_ms=np.arange(n, dtype=np.int64) + 1_600_000_000_000,
        events=np.array([row[2] for row in rows], dtype=np.int64),
        p_purchase=np.array([row[3] for row in rows], dtype=np.float64),
        p_cart=np.array([row[4] for row in rows], dtype=np.float64),
        ended=bits[0],
        purchased=bits[1],
        bot=bits[2],
        model_version="gru@3",
    )
    keys, values = records.encode_intent(columns)
    assert len(keys) == len(values) == n
    for i, (session, user, events, p_purchase, p_cart) in enumerate(rows):
        record = check("intent", values[i])
        assert keys[i].decode() == session
        assert same_but_for_ties(record.pop("p_purchase"), p_purchase)
        assert same_but_for_ties(record.pop("p_cart"), p_cart)
        assert record == {
            "session": session,
            "user": user if with_users and user else None,
            "issued_at_ms": 1_600_000_000_000 + i,
            "events": events,
            "ended": bits[0][i],
            "purchased": bits[1][i],
            "bot": bits[2][i],
            "model_version": "gru@3",
        }


@given(st.lists(st.tuples(ids, micros, st.floats(0, 1e9), shares, st.booleans(), st.booleans())))
def test_spike_records_say_what_the_columns_say(rows: list[tuple[str, int, float, float, bool, bool]]) -> None:
    columns = SpikeColumns(
        item=[row[0] for row in rows],
        bucket="5m",
        bucket_start_ms=1_600_000_000_000,
        observed=np.array([row[1] for row in rows], dtype=np.int64),
        expected=np.array([row[2] for row in rows], dtype=np.float64),
        p_value=np.array([row[3] for row in rows], dtype=np.float64),
        severity=["critical" if row[4] else "warning" for row in rows],
        state=["open" if row[5] else "resolved" for row in rows],
        model_version="m@1",
    )
    keys, values = records.encode_spikes(columns)
    assert len(keys) == len(values) == len(rows)
    for key, value, (item, observed, expected, p_value, critical, is_open) in zip(keys, values, rows, strict=True):
        record = check("spikes", value)
        assert json.loads(value, parse_float=Decimal)["observed"] * MICRO == observed
        assert same_but_for_ties(record["expected"], expected)
        assert same_but_for_ties(record["p_value"], p_value)
        assert (key.decode(), record["item"], record["bucket"], record["bucket_start_ms"]) == (item, item, "5m", 1_600_000_000_000)
        assert (record["severity"], record["state"]) == ("critical" if critical else "warning", "open" if is_open else "resolved")


@given(arrays.arrays(np.float64, st.integers(0, 20), elements=st.floats()))
def test_rounding_keeps_four_digits(values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    for got, value in zip(records.round_significant(values).tolist(), values.tolist(), strict=True):
        if math.isfinite(value):
            assert same_but_for_ties(got, value)
            assert four_digits(got) == got  # to the last bit, so that it prints short
        else:
            assert math.isnan(got) if math.isnan(value) else got == value


def test_every_power_of_ten_and_its_neighbours_are_looked_up_right() -> None:
    """The logarithm may err there: a number that is 1000 of one decade is 10000 of the other."""
    powers = 10.0 ** np.arange(-29, 39)
    around = np.concatenate([powers * (1 + nudge) for nudge in (-6e-5, -4e-5, -1e-6, -1e-7, 0, 1e-7, 1e-6, 4e-5, 6e-5)]).astype(np.float32)
    got = [json.loads(value)["mean"][0] for _, values, _ in records.encode_demand(one_step(around)) for value in values]
    wrong = [(number, value) for number, value in zip(got, around.tolist(), strict=True) if not same_but_for_ties(number, value)]
    assert not wrong


@pytest.mark.parametrize("reason", records.REASONS)
def test_dead_letters_keep_their_bytes_and_say_where_they_stood(reason: str) -> None:
    key, value, cut = records.fit_dead_letter(None, b"\xff\x00 not json")
    headers = records.dead_letter_headers(reason, "byte 0: no UTF-8 \ud800" + "x" * 5000, "shop.events", 3, 12_345_678_901)
    assert (key, value, cut) == (None, b"\xff\x00 not json", [])
    decoded = {name: raw.decode() for name, raw in headers}
    VALIDATORS["deadletter.headers"].validate(decoded)
    assert (decoded["nowcart-reason"], decoded["nowcart-topic"]) == (reason, "shop.events")
    assert (decoded["nowcart-partition"], decoded["nowcart-offset"]) == ("3", "12345678901")
    assert decoded["nowcart-detail"].startswith("byte 0")


@pytest.mark.parametrize("key_bytes", [0, 100, 1024 * 1024, 9 * 1024 * 1024])
def test_a_dead_letter_that_is_too_large_is_cut_and_says_so(key_bytes: int) -> None:
    original_key, original = b"k" * key_bytes, bytes(range(256)) * (9 * 4096)
    key, value, cut = records.fit_dead_letter(original_key, original)
    assert key is not None
    assert value is not None
    headers = cut + records.dead_letter_headers("too_large", "é" * 2000, "t" * 249, 1, 1)
    decoded = {name: raw.decode() for name, raw in headers}
    VALIDATORS["deadletter.headers"].validate(decoded)
    assert decoded["nowcart-cut"] == str(len(original))
    assert decoded.get("nowcart-cut-key") == (str(key_bytes) if key_bytes > 1024 * 1024 else None)
    assert original.startswith(value)
    assert original_key.startswith(key)
    total = len(key) + len(value) + sum(len(name) + len(raw) for name, raw in headers)
    assert records.MAX_MESSAGE_BYTES - 32 * 1024 < total < records.MAX_MESSAGE_BYTES - 4 * 1024


def test_written_schemas_are_valid_and_the_asyncapi_document_hangs_together(tmp_path: Path) -> None:
    files = schemas.write(tmp_path / "new" / "folder", prefix="shop.")
    documents = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    for name, document in documents.items():
        if name != "asyncapi.json":
            Draft202012Validator.check_schema(document)
    document = documents["asyncapi.json"]
    assert {channel["address"] for channel in document["channels"].values()} == {
        "shop.demand",
        "shop.intent",
        "shop.spikes",
        "shop.alerts",
        "shop.deadletter",
    }

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [reference for value in node.values() for reference in references(value)]
        return [reference for value in node for reference in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("demand", {"mean": [-1]}),
        ("demand", {"quantiles": {"half": [1]}}),
        ("demand", {"totals": {"seven": {}}}),
        ("demand", {"p_zero": [1.5]}),
        ("demand", {"experts": None}),
        ("demand", {"corrects": False}),
        ("intent", {"p_purchase": 1.1}),
        ("intent", {"events": 0}),
        ("spikes", {"state": "opened"}),
    ],
)
def test_the_schemas_refuse_what_is_wrong(name: str, change: dict[str, Any]) -> None:
    good: dict[str, dict[str, Any]] = {
        "demand": {
            **{"item": "a", "bucket": "1h", "bucket_start_ms": 0, "observed": 1.5, "returned": 0, "orders": 1, "views": 0, "carts": 0},
            **{"censored": 0, "issued_at_ms": 1, "mean": [1], "quantiles": {"0.5": [1]}, "p_zero": [0], "totals": {"7": {"0.5": 7}}},
            **{"model_version": "m", "experts": {"1": {"ewma": 1}}},
        },
        "intent": {
            **{"session": "s", "user": None, "issued_at_ms": 0, "events": 1, "p_purchase": 0.5, "p_cart": 0.5},
            **{"ended": False, "purchased": False, "bot": False, "model_version": "m"},
        },
        "spikes": {
            **{"item": "a", "bucket": "1h", "bucket_start_ms": 0, "observed": 9, "expected": 1.0, "p_value": 1e-9},
            **{"severity": "warning", "state": "open", "model_version": "m"},
        },
    }
    VALIDATORS[name].validate(good[name])
    assert not VALIDATORS[name].is_valid({**good[name], **change})
