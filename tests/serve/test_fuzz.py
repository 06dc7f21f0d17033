"""Whatever the OpenAPI document allows, and much that it does not, is asked: no failure, and every answer as described."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from stream.serve.openapi import document
from tests.serve.rig import Rig, config, demand, intent, spike

_CONFIG = config()
_DOCUMENT = document(_CONFIG, locked=False)
del _DOCUMENT["paths"]["/v1/stream"]  # it has no end; tests of its own ask it
_SCHEMA = schemathesis.openapi.from_dict(_DOCUMENT)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(_CONFIG) as rig:
        rig.give("demand", [demand(name, hour) for hour in range(3) for name in ("0", "a", "~", "tea/pot")])
        rig.give("intent", [intent("0", 0.5), intent("a", 0.2)])
        rig.give("spikes", [spike("0"), spike("a", "resolved")])
        yield rig


@_SCHEMA.parametrize()
@hypothesis.settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_whatever_is_asked_is_answered_as_described(case: schemathesis.Case[Any], rig: Rig) -> None:
    response = case.call(base_url=rig.server.url.rstrip("/"), timeout=30)
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
    )
    assert b"Traceback" not in response.content
