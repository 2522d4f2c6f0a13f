"""Let schemathesis ask every operation of /openapi.json: no 500, and every answer as the document
says.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok

from tests.unit.node.conftest import Api

EXAMPLES = 8
LEFT_OUT = (
    "unsupported_method",
    "positive_data_acceptance",
    "negative_data_rejection",
    "missing_required_header",
    "not_a_server_error",
    "ignored_auth",
)
"""Checks of the schema's sharpness (keys are bounded in bytes, which JSON Schema cannot say), one
that takes 501 and 503, honest answers, for errors (500 is asserted here), and one that expects
refusals without credentials: access is not controlled here.
"""

limited = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def ask_everything(url: str) -> list[str]:
    """Ask every operation with generated input; return which were asked."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path="/v1/watch")
    left_out = [check for check in CHECKS.get_all() if check.__name__ in LEFT_OUT]
    asked: list[str] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @limited
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            response = case.call(base_url=url, timeout=20)
            assert response.status_code != 500, response.text
            assert response.headers["acordo-node"] == ["n1"]
            case.validate_response(response, excluded_checks=left_out)

        ask()
        asked.append(operation.label)
    return asked


async def test_every_answer_is_as_described(api: Api) -> None:
    asked = await asyncio.to_thread(ask_everything, api.url)
    assert len(asked) > 20
