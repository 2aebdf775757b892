"""LoRA adapters an engine knows, with vLLM's answers to loading and unloading. Pure.

Source: vLLM 0.32.0, ``vllm/entrypoints/openai/models/serving.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.simulator.http.errors import ApiError, bad


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter; ``number`` is its integer id in events, never used twice."""

    name: str
    path: str
    number: int


class Adapters:
    """The adapters loaded, by name.

    Args:
        models: Names of the base model, which no adapter may take.
        enabled: False for an engine started without ``--enable-lora``.
        limit: Most adapters at once.

    """

    def __init__(self, models: Iterable[str], *, enabled: bool, limit: int) -> None:
        self._models = tuple(models)
        self._enabled = enabled
        self._limit = limit
        self._loaded: dict[str, Adapter] = {}
        self._next = 1

    def loaded(self) -> list[Adapter]:
        """Return the adapters loaded, in order of loading."""
        return list(self._loaded.values())

    def get(self, name: str) -> Adapter | None:
        """Return the adapter of that name."""
        return self._loaded.get(name)

    def load(self, name: str, path: str, *, inplace: bool = False) -> str:
        """Load an adapter; return vLLM's message.

        Raises:
            ApiError: 400 for a name that is empty or taken, 404 for a path with nothing there
                (one that contains ``missing``: there is no file to look for), 500 without
                ``--enable-lora``.

        """
        if not name or not path:
            raise _user_error("Both 'lora_name' and 'lora_path' must be provided.")
        if not self._enabled:
            raise ApiError(
                500,
                "Call to add_lora method failed: LoRA is not enabled. Use --enable-lora to enable "
                "LoRA.",
                "InternalServerError",
            )
        if name in self._models or (name in self._loaded and not inplace):
            raise _user_error(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if "missing" in path:
            raise ApiError(
                404,
                f"Loading lora {name} failed: No adapter found for {path}",
                "NotFoundError",
            )
        if name not in self._loaded and len(self._loaded) >= self._limit:
            raise bad(f"at most {self._limit} adapters may be loaded", "lora_name")
        self._loaded[name] = Adapter(name, path, self._next)
        self._next += 1
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> str:
        """Forget an adapter; return vLLM's message.

        Raises:
            ApiError: 404 for one that is not loaded.

        """
        if not name:
            raise _user_error("'lora_name' needs to be provided to unload a LoRA adapter.")
        if self._loaded.pop(name, None) is None:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        return f"Success: LoRA adapter '{name}' removed successfully."


def _user_error(message: str) -> ApiError:
    return ApiError(400, message, "InvalidUserInput")
