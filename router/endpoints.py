"""The endpoints there are, and which of them may serve a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.errors import ModelNotFound
from headrace.core.ids import EndpointId, ModelName
from headrace.core.request import RouteRequest


class Endpoints:
    """The list as last set. One owner."""

    def __init__(self) -> None:
        self._views: dict[EndpointId, EndpointView] = {}
        self._serving: dict[ModelName, tuple[EndpointView, ...]] = {}
        self._loaded: dict[EndpointId, frozenset[ModelName]] = {}
        self._names: dict[EndpointId, frozenset[ModelName]] = {}
        self._ready: list[EndpointView] = []
        self._prefilled: frozenset[ModelName] = frozenset()
        self._adapters: Mapping[ModelName, AdapterSpec] = {}
        self._taking: dict[ModelName, tuple[EndpointView, ...]] = {}
        self._open: dict[ModelName, Sequence[EndpointView]] = {}  # to requests without conditions

    def set_adapters(self, adapters: Mapping[ModelName, AdapterSpec]) -> None:
        """Replace the adapters that endpoints of their base model are given when need be."""
        self._adapters = adapters
        self._taking.clear()
        self._open.clear()

    def set(self, views: Iterable[EndpointView]) -> list[EndpointId]:
        """Replace the whole list; return those that lost what they held: vanished or down."""
        before, self._views = self._views, {view.endpoint_id: view for view in views}
        serving: dict[ModelName, list[EndpointView]] = {}
        for endpoint_id in sorted(self._views):
            view = self._views[endpoint_id]
            for model in dict.fromkeys((*view.models, *view.loadable)):
                serving.setdefault(model, []).append(view)
        self._serving = {model: tuple(found) for model, found in serving.items()}
        self._taking.clear()
        self._open.clear()
        self._loaded = {e: frozenset(view.models) for e, view in self._views.items()}
        self._names = {
            e: frozenset((*view.models, *view.loadable)) for e, view in self._views.items()
        }
        self._ready = [
            view
            for view in self.all()
            if view.health is Health.READY and view.role is not Role.PREFILL
        ]
        self._prefilled = frozenset(
            model
            for model, found in self._serving.items()
            if any(view.role is Role.PREFILL for view in found)
        )
        return [endpoint_id for endpoint_id in before if not self._alive(endpoint_id)]

    def _alive(self, endpoint_id: EndpointId) -> bool:
        view = self._views.get(endpoint_id)
        return view is not None and view.health is not Health.DOWN

    def get(self, endpoint_id: EndpointId) -> EndpointView:
        """Return one endpoint; KeyError if it is not in the list."""
        return self._views[endpoint_id]

    def all(self) -> list[EndpointView]:
        """Return all endpoints, by id."""
        return [self._views[endpoint_id] for endpoint_id in sorted(self._views)]

    def ids(self) -> frozenset[EndpointId]:
        """Return the ids of all endpoints."""
        return frozenset(self._views)

    def models(self) -> list[ModelName]:
        """Return the names that some endpoint serves, whatever its health, sorted."""
        known = [name for name in self._adapters if self.serving(name)]
        return sorted({*self._serving, *known})

    def serving(self, model: ModelName) -> Sequence[EndpointView]:
        """Return the endpoints that serve or can load a model, by id."""
        spec = self._adapters.get(model)
        if spec is None:
            return self._serving.get(model, ())
        found = self._taking.get(model)
        if found is None:
            views = self._serving.get(spec.base, ())
            found = tuple(view for view in views if takes(view, spec))
            self._taking[model] = found
        return found

    def loaded(self, endpoint_id: EndpointId, model: ModelName) -> bool:
        """Return whether the endpoint has the model or adapter, and need not load it first."""
        return model in self._loaded[endpoint_id]

    def admits(self, endpoint_id: EndpointId, request: RouteRequest) -> bool:
        """Return whether an endpoint serves or can load the model and has the labels asked for."""
        spec = self._adapters.get(request.model)
        if spec is not None:
            if all(view.endpoint_id != endpoint_id for view in self.serving(spec.name)):
                return False
        elif request.model not in self._names[endpoint_id]:
            return False
        return not request.labels or set(request.labels) <= set(self._views[endpoint_id].labels)

    def ready(self) -> list[EndpointView]:
        """Return the endpoints that may be given requests, by id."""
        return self._ready

    def may_serve(self, request: RouteRequest, exclude: frozenset[EndpointId]) -> bool:
        """Return whether any endpoint may be given the request now."""
        return bool(self.serving(request.model)) and bool(self.that_may_serve(request, exclude))

    def that_may_serve(
        self, request: RouteRequest, exclude: frozenset[EndpointId]
    ) -> Sequence[EndpointView]:
        """Return the endpoints that may be given the request now, by id.

        Those that are ready, serve or can load the model, carry all labels asked for, and do not
        only prefill.

        Raises:
            ModelNotFound: if no endpoint serves the model by that name.

        """
        anywhere = not exclude and not request.labels
        if anywhere and (found := self._open.get(request.model)) is not None:
            return found
        views = self.serving(request.model)
        if not views:
            known = ", ".join(self.models()) or "none yet"
            raise ModelNotFound(
                f"the model {request.model!r} does not exist; models served: {known}",
                field="model",
            )
        found = [
            view
            for view in views
            if view.role is not Role.PREFILL and _may_take(view, request, exclude)
        ]
        if anywhere:
            self._open[request.model] = found
        return found

    def that_may_prefill(
        self, request: RouteRequest, exclude: frozenset[EndpointId]
    ) -> list[EndpointView]:
        """Return the endpoints that only prefill and may be given the request now, by id."""
        if not self.disaggregates(request.model):
            return []
        return [
            view
            for view in self.serving(request.model)
            if view.role is Role.PREFILL and _may_take(view, request, exclude)
        ]

    def disaggregates(self, model: ModelName) -> bool:
        """Return whether some endpoint only prefills for the model, whatever its health."""
        spec = self._adapters.get(model)
        return (model if spec is None else spec.base) in self._prefilled


def takes(view: EndpointView, spec: AdapterSpec) -> bool:
    """Return whether an endpoint of its base model can be given an adapter."""
    if view.adapter_slots == 0:
        return False
    return spec.rank is None or view.adapter_rank is None or spec.rank <= view.adapter_rank


def _may_take(view: EndpointView, request: RouteRequest, exclude: frozenset[EndpointId]) -> bool:
    labels = request.labels
    return (
        view.health is Health.READY
        and view.endpoint_id not in exclude
        and (not labels or set(labels) <= set(view.labels))
    )
