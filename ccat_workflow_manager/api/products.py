"""Products: what they are, what is in them, where they come from."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header
from starlette.responses import Response

from ccat_workflow_manager.api import content, models
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.dependencies import Ctx, read_one
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.db.products import product
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import products as views
from ccat_workflow_manager.errors import NotFound

router = APIRouter(prefix="/products/{product_id}", tags=["products"])

MOST_RELATIVES = 1000


@router.get("", response_model=models.Product)
def get_product(context: Ctx, product_id: UUID) -> Response:
    """A product: type, size, checksum, metadata."""
    return json_response(read_one(context, "product", views.product_detail, product_id))


@router.get("/lineage", response_model=models.Lineage)
def get_lineage(context: Ctx, product_id: UUID) -> Response:
    """What it was made of and what was made of it.

    Parents are those that the program declared; where it declared none, all products of the step runs before it.
    Up to 1000 products in each direction; `truncated` says that there are more.
    """

    def view(unit: UnitOfWork, key: UUID) -> str | None:
        return views.lineage(unit, key, MOST_RELATIVES)

    return json_response(read_one(context, "product", view, product_id))


@router.get("/content", response_class=Response, responses={200: documented.content})
def get_content(
    context: Ctx, product_id: UUID, known: Annotated[str | None, Header(alias="If-None-Match")] = None
) -> Response:
    """The file itself, or a directory as a tar archive."""
    with context.database.read() as unit:
        found = product(unit, product_id)
    if found is None:
        raise NotFound(f"there is no product {product_id}")
    return content.respond(found, str(context.settings.pipeline_base_dir), known)
