"""``ModelService``: one model served, on one machine, on Ray or on Kubernetes. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from controller.api.base import FreeObject, Group, Name, Rule, Text

KIND: Final = "ModelService"
PLURAL: Final = "modelservices"

Quantity = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)
]


class Engine(StrEnum):
    """What computes."""

    SIMULATED = "simulated"
    VLLM = "vllm"
    SGLANG = "sglang"


class Model(Group):
    """What is served."""

    source: Text | None = Field(
        default=None,
        description="Where its files are: a folder that the engine sees, or a hub id. Simulated "
        "engines need none.",
    )
    name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None, description="What clients call it; default: the service's own name."
    )


class Simulated(Group):
    """A simulated engine, by presets; other settings go through ``engine.args`` as ``--set``."""

    hardware: Text = Field(default="H100", description="A card, by preset name.")
    model: Text = Field(default="Llama-3.1-8B", description="A model, by preset name.")
    time_scale: float = Field(
        default=1.0, gt=0, le=1_000, description="Engine seconds per wall second."
    )


class EnvVar(Group):
    """One environment variable of the engine."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)] = Field(
        description="Its name."
    )
    value: Annotated[str, Field(max_length=4_096)] | None = Field(
        default=None, description="Its value."
    )
    value_from: FreeObject | None = Field(
        default=None, description="Where its value is, as in a pod: a secretKeyRef and the like."
    )

    RULES: ClassVar = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "give either value or valueFrom",
            lambda env: (env.value is None) != (env.value_from is None),
        ),
    )


class EngineSpec(Group):
    """What runs the model."""

    kind: Engine = Field(default=Engine.SIMULATED, description="The engine.")
    image: Text | None = Field(
        default=None, description="Its image; default: the controller's for this engine."
    )
    args: Annotated[list[Annotated[str, Field(max_length=1_024)]], Field(max_length=128)] = Field(
        default_factory=list, description="Appended to what we pass, so that they win."
    )
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(
        default_factory=list,
        description="Environment variables, as in a pod.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    simulated: Simulated = Field(
        default_factory=Simulated, description="Only for simulated engines."
    )
    kv_events: bool = Field(
        default=True, description="Publish what prefix caches hold, for exact routing."
    )


class Accelerator(Group):
    """The cards of a variant."""

    resource: Text = Field(
        default="nvidia.com/gpu", description="The resource that a node offers them as."
    )
    name: Text | None = Field(default=None, description="What the card is called, e.g. H100.")


class Resources(Group):
    """CPU and memory of the engine's container on each node."""

    cpu: Quantity | None = Field(default=None, description="Requested cores, e.g. 4 or 500m.")
    memory: Quantity | None = Field(
        default=None, description="Requested memory, which is also the limit, e.g. 16Gi."
    )


class Variant(Group):
    """Replicas of one shape: several let one model run on different cards."""

    name: Name = Field(description="Told apart by this.")
    role: Literal["both", "prefill", "decode"] = Field(
        default="both", description="Prefill computes prompts for decode replicas."
    )
    accelerator: Accelerator | None = Field(
        default=None, description="Its cards; none runs on CPU."
    )
    tensor_parallel: int = Field(
        default=1, ge=1, le=64, description="Cards over which each layer is split."
    )
    pipeline_parallel: int = Field(
        default=1, ge=1, le=64, description="Stages of layers, each on its own cards."
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Machines of one replica. Its cards are dealt to them evenly.",
    )
    min_replicas: int = Field(
        default=0, ge=0, le=5_000, description="Never fewer, whatever spec.replicas says."
    )
    max_replicas: int | None = Field(
        default=None, ge=0, le=5_000, description="Never more; default: no limit."
    )
    price_per_hour: float | None = Field(
        default=None,
        ge=0,
        description="Of one replica, in any currency. Replicas beyond the minima go to the "
        "cheapest variant that may have more; without prices to the first.",
    )
    resources: Resources = Field(default_factory=Resources, description="Of each engine container.")
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = Field(
        default_factory=dict, description="Labels that its nodes must have."
    )
    tolerations: Annotated[list[FreeObject], Field(max_length=32)] = Field(
        default_factory=list, description="Taints that it bears, as in a pod."
    )
    args: Annotated[list[Annotated[str, Field(max_length=1_024)]], Field(max_length=128)] = Field(
        default_factory=list, description="Appended to the engine's arguments."
    )

    RULES: ClassVar = (
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas",
            lambda v: v.max_replicas is None or v.min_replicas <= v.max_replicas,
        ),
        Rule(
            "self.tensorParallel * self.pipelineParallel % self.nodes == 0",
            "tensorParallel x pipelineParallel must be a multiple of nodes: every node has the "
            "same number of cards",
            lambda v: v.tensor_parallel * v.pipeline_parallel % v.nodes == 0,
        ),
    )

    @property
    def cards_per_node(self) -> int:
        """Cards that one node of a replica needs; 0 on CPU."""
        if self.accelerator is None:
            return 0
        return self.tensor_parallel * self.pipeline_parallel // self.nodes


SourcePrefix = Annotated[
    str, Field(pattern=r"^(file|http|https|s3|gs|hf)://[^\s?#]*$", max_length=1_024)
]


class Lora(Group):
    """Whether and how adapters are served."""

    max_loras: int = Field(default=8, ge=1, le=1_024, description="Adapters in one step.")
    max_cpu_loras: int = Field(default=64, ge=1, le=10_000, description="Adapters kept in memory.")
    max_rank: int = Field(default=64, ge=1, le=512, description="Highest rank of any.")
    sources: Annotated[list[SourcePrefix], Field(max_length=64)] = Field(
        default_factory=list,
        description="What adapters' sources may begin with, whole path segments at a time, e.g. "
        "s3://bucket/adapters or https://models.example.com/; default: hf://, s3:// and gs://.",
    )

    RULES: ClassVar = (
        Rule(
            "self.maxLoras <= self.maxCpuLoras",
            "maxLoras must not exceed maxCpuLoras",
            lambda lora: lora.max_loras <= lora.max_cpu_loras,
        ),
    )


class Rollout(Group):
    """How replicas are exchanged for others."""

    max_surge: int = Field(
        default=1, ge=0, le=5_000, description="Replicas above the wanted number meanwhile."
    )
    max_unavailable: int = Field(
        default=0, ge=0, le=5_000, description="Replicas below the wanted number meanwhile."
    )
    progress_deadline_seconds: int = Field(
        default=1_800,
        ge=10,
        le=86_400,
        description="A new revision that waits for replicas, and none more of which becomes ready "
        "for so long, has failed. Longer than loading the model takes.",
    )
    drain_seconds: int = Field(
        default=600,
        ge=0,
        le=86_400,
        description="Most that a replica which is to go waits for its streams to end.",
    )
    rollback: bool = Field(
        default=True, description="Return to the last good revision when a new one fails."
    )

    RULES: ClassVar = (
        Rule(
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "maxSurge and maxUnavailable must not both be 0",
            lambda r: r.max_surge > 0 or r.max_unavailable > 0,
        ),
    )


class PodExtras(Group):
    """What else the pods should have. Kubernetes only."""

    labels: Annotated[dict[str, str], Field(max_length=32)] = Field(
        default_factory=dict, description="Added to the pods'; ours win."
    )
    annotations: Annotated[dict[str, str], Field(max_length=32)] = Field(
        default_factory=dict, description="Added to the pods'; ours win."
    )
    service_account_name: Text | None = Field(default=None, description="They run as it.")
    priority_class_name: Text | None = Field(default=None, description="Their priority.")
    runtime_class_name: Text | None = Field(default=None, description="Their container runtime.")
    image_pull_secrets: Annotated[list[FreeObject], Field(max_length=16)] = Field(
        default_factory=list, description="For images that are not public."
    )
    volumes: Annotated[list[FreeObject], Field(max_length=32)] = Field(
        default_factory=list, description="As in a pod."
    )
    volume_mounts: Annotated[list[FreeObject], Field(max_length=32)] = Field(
        default_factory=list, description="Of the engine's container, as in a pod."
    )


class ModelServiceSpec(Group):
    """A model, what runs it, where, and how often."""

    model: Model = Field(default_factory=Model, description="What is served.")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="What runs it.")
    replicas: int = Field(
        default=1,
        ge=0,
        le=5_000,
        description="Engines in all, over the variants. `kubectl scale` and autoscalers write it.",
    )
    variants: Annotated[list[Variant], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: [Variant(name="main")],
        description="Shapes of replicas; default: one on CPU, called main.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    lora: Lora | None = Field(default=None, description="Serve adapters; default: none.")
    rollout: Rollout = Field(default_factory=Rollout, description="How replicas are exchanged.")
    pod: PodExtras = Field(default_factory=PodExtras, description="What else pods should have.")

    RULES: ClassVar = (
        Rule(
            "self.engine.kind == 'simulated' || has(self.model.source)",
            "model.source is required for a real engine",
            lambda s: s.engine.kind is Engine.SIMULATED or s.model.source is not None,
        ),
        Rule(
            "self.variants.exists(v, v.role != 'prefill')",
            "a prefill variant needs one that decodes beside it",
            lambda s: any(v.role != "prefill" for v in s.variants),
        ),
    )
