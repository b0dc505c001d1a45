"""The router with all endpoints of the HTTP API, and its OpenAPI document."""

from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi

from retrycli.config.settings import Settings
from retrycli.domain.user import Right
from retrycli.web.access import Access
from retrycli.web.api_messages import MessageEndpoints
from retrycli.web.api_scheduler import SchedulerEndpoints
from retrycli.web.endpoints import JsonAnswer, Problem, add_endpoints, answer, endpoint, route_class
from retrycli.web.status import RecentStatus


class _Document:
    """The OpenAPI document of the API, for generated clients."""

    def __init__(self, router: APIRouter) -> None:
        self._router = router

    @endpoint("GET", "/openapi.json", Right.READ)
    def openapi_document(self, request: Request) -> JsonAnswer[dict[str, object]]:
        """Return this document."""
        root: str = request.scope.get("root_path", "")
        prefix = request.url.path.removeprefix(root).removesuffix("/openapi.json")
        document = get_openapi(
            title="retrycli",
            version=version("retrycli"),
            description="The scheduler's status, and what operators do to failed ticket messages.",
            routes=self._router.routes,
            servers=[{"url": root or "/"}],
        )
        document["paths"] = {prefix + path: operations for path, operations in document["paths"].items()}
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        document["security"] = [{"token": []}]
        return answer(document, has_version=False)


def make_api(settings: Settings, access: Access, status: RecentStatus) -> APIRouter:
    """Return a router with all endpoints."""
    router = APIRouter(route_class=route_class(access))
    add_endpoints(router, SchedulerEndpoints(settings, status))
    add_endpoints(router, _Document(router))
    add_endpoints(router, MessageEndpoints(settings, status))
    return router
