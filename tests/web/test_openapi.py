"""What `/docs` and generated clients see of a mounted router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from amplitude_cohorts_async.contrib.fastapi import CohortExports

PROBLEM = "application/problem+json"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The app of the document, which is not run."""
    app = FastAPI()
    exports = CohortExports(tmp_path)
    app.include_router(exports.router(auth=None), prefix="/amplitude")

    return app


def operations(app: FastAPI) -> dict[str, dict[str, Any]]:
    """Return the routes by method and path."""
    return {
        f"{method.upper()} {path.removeprefix('/amplitude')}": operation
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }


def test_names_are_public(app: FastAPI) -> None:
    """A generated client calls each route by a name that says what it does."""
    ids = {path: each["operationId"] for path, each in operations(app).items()}

    assert {
        "GET /cohorts": "list_cohorts",
        "GET /usage": "get_usage",
        "GET /plan": "plan_exports",
        "GET /exports": "list_exports",
        "POST /exports": "start_export",
        "GET /exports/events": "stream_exports",
        "GET /exports/{export_id}": "get_export",
        "DELETE /exports/{export_id}": "cancel_export",
        "GET /exports/{export_id}/events": "stream_export",
        "GET /exports/{export_id}/file": "get_export_file",
    } == ids
    assert "/amplitude/exports" == app.url_path_for("start_export")


def test_summaries_are_sentences(app: FastAPI) -> None:
    """No name of a function of ours is shown."""
    summaries = [each["summary"] for each in operations(app).values()]

    assert all(each == each.strip() and each[0].isupper() for each in summaries)
    assert "Start an export" in summaries
    assert "_" not in "".join(summaries)


def test_errors_are_described_as_they_are_sent(app: FastAPI) -> None:
    """Each route answers with problems, and says which media type they have."""
    for operation in operations(app).values():
        (content,) = operation["responses"]["default"]["content"].items()

        assert PROBLEM == content[0]
        assert {"title", "status", "detail"} <= content[1]["schema"][
            "properties"
        ].keys()
        assert "422" not in operation["responses"]


def test_problems_are_described_beside_a_model_of_the_same_name(app: FastAPI) -> None:
    """A user's own `Problem` does not change what ours says."""

    class Problem(BaseModel):
        mine: int

    app.get("/mine", response_model=Problem)(lambda: None)
    default = operations(app)["GET /cohorts"]["responses"]["default"]

    assert "detail" in default["content"][PROBLEM]["schema"]["properties"]


def test_files_are_binary(app: FastAPI) -> None:
    """The route of a file names the media types of its formats, whole and in part."""
    responses = operations(app)["GET /exports/{export_id}/file"]["responses"]

    assert {
        "text/csv",
        "application/gzip",
        "application/vnd.apache.parquet",
    } == responses["200"]["content"].keys()
    assert responses["200"]["content"] == responses["206"]["content"]
    assert all(
        {"type": "string", "format": "binary"} == each["schema"]
        for each in responses["200"]["content"].values()
    )
