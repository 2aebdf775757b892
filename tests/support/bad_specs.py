"""Documents that an API server refuses, and what it says of each: fields and words, as a set.

The unit tests hold ``controller.api`` to this table, the end-to-end suite the real API server: it
is what makes both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controller.api.base import API_VERSION
from tests.support.spec_documents import (
    adapter,
    bad,
    document,
    in_body,
    of_type,
    service,
    unknown,
    variant,
)

_DNS: Final = "match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'"
_SOURCES: Final = {"lora": {"sources": ["s3://good/", "ftp://bad/"]}}
_SCHEMES: Final = r"match '^(file|http|https|s3|gs|hf)://[^\s?#]*$'"
_QUANTITY: Final = r"match '^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$'"
_SUBDOMAIN: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    r"for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_NAMELESS: Final = ("metadata.name", "Required value: name or generateName is required")
_SHARES: Final = (
    "tensorParallel x pipelineParallel must be a multiple of nodes: every node has the same "
    "number of cards"
)
_NO_SURGE: Final = ("spec.rollout", "maxSurge and maxUnavailable must not both be 0")
_NO_DECODE: Final = ("spec", "a prefill variant needs one that decodes beside it")
_LONG_SERVICE: Final = ("<nil>", "metadata.name must have at most 40 characters")

UNKNOWN_FIELDS: Final = (
    bad("unknown at the top", document("ModelService", {"name": "m"}, spec={}, x=1), *unknown("x")),
    bad(
        "unknown in metadata",
        document("ModelService", {"name": "m", "x": 1}, spec={}),
        *unknown("metadata.x"),
    ),
    bad("unknown in the spec", service({"modle": {}}), *unknown("spec.modle")),
    bad(
        "unknown, two of them",
        service({"x": 1, "model": {"y": 2}}),
        *unknown("spec.x", "spec.model.y"),
    ),
    bad("unknown in a list", variant(gpus=1), *unknown("spec.variants[0].gpus")),
    bad("snake case", service({"engine": {"kv_events": True}}), *unknown("spec.engine.kv_events")),
    bad("unknown in an adapter", adapter({"base": "m", "source": "s", "x": 1}), *unknown("spec.x")),
)

NAMES: Final = (
    bad("no name", document("ModelService", {}, spec={}), _NAMELESS),
    bad("an empty name", service({}, ""), _NAMELESS),
    bad("no metadata", {"apiVersion": API_VERSION, "kind": "ModelService", "spec": {}}, _NAMELESS),
    bad(
        "no name keeps rules from being checked",
        service({"rollout": {"maxSurge": 0}}, ""),
        _NAMELESS,
    ),
    bad("a capital name", service({}, "A"), ("metadata.name", _SUBDOMAIN)),
    bad("a service's name of 41", service({}, "a" * 41), _LONG_SERVICE),
    bad(
        "a service's name of 254",
        service({}, "a" * 254),
        _LONG_SERVICE,
        ("metadata.name", "must be no more than 253 characters"),
    ),
    bad(
        "a generated name",
        document("ModelService", {"generateName": "a" * 36}, spec={}),
        _LONG_SERVICE,
    ),
    bad(
        "an adapter's name of 64",
        adapter({"base": "m", "source": "s"}, "a" * 64),
        ("<nil>", "metadata.name must have at most 63 characters"),
    ),
    bad(
        "a long name beside a rule",
        service({"engine": {"kind": "vllm"}}, "a" * 41),
        _LONG_SERVICE,
        ("spec", "model.source is required for a real engine"),
    ),
    bad(
        "a long name beside a bound",
        service({"replicas": -1}, "a" * 41),
        _LONG_SERVICE,
        in_body("spec.replicas", "be greater than or equal to 0"),
    ),
    bad(
        "a long name beside a type",
        service({"replicas": "1"}, "a" * 41),
        of_type("spec.replicas", "integer", "string"),
    ),
)

TYPES: Final = (
    bad("no spec", document("ModelService", {"name": "m"}), ("spec", "Required value")),
    bad("a null spec", service(None), ("spec", "Required value")),
    bad("a text for a spec", service("x"), of_type("spec", "object", "string")),
    bad("a list for a spec", service([]), of_type("spec", "object", "array")),
    bad("a text", service({"replicas": "2"}), of_type("spec.replicas", "integer", "string")),
    bad(
        "a fraction for a number",
        service({"replicas": 1.5}),
        of_type("spec.replicas", "integer", "number"),
    ),
    bad(
        "a truth for a number",
        service({"replicas": True}),
        of_type("spec.replicas", "integer", "boolean"),
    ),
    bad(
        "a text for a truth",
        service({"engine": {"kvEvents": "yes"}}),
        of_type("spec.engine.kvEvents", "boolean", "string"),
    ),
    bad(
        "a text for a ratio",
        service({"engine": {"simulated": {"timeScale": "2x"}}}),
        of_type("spec.engine.simulated.timeScale", "number", "string"),
    ),
    bad(
        "a number for a text",
        service({"engine": {"args": ["--x", 1]}}),
        of_type("spec.engine.args[1]", "string", "integer"),
    ),
    bad(
        "a null for a text",
        service({"engine": {"args": [None]}}),
        of_type("spec.engine.args[0]", "string", "null"),
    ),
    bad(
        "a null for a variant",
        service({"variants": [None]}),
        of_type("spec.variants[0]", "object", "null"),
    ),
    bad(
        "a text for a list", service({"variants": "a"}), of_type("spec.variants", "array", "string")
    ),
    bad(
        "a text for an object",
        variant(accelerator="H100"),
        of_type("spec.variants[0].accelerator", "object", "string"),
    ),
    bad(
        "a number in a mapping",
        variant(nodeSelector={"zone": 1}),
        of_type("spec.variants[0].nodeSelector.zone", "string", "integer"),
    ),
    bad(
        "a text for a toleration",
        variant(tolerations=["x"]),
        of_type("spec.variants[0].tolerations[0]", "object", "string"),
    ),
    bad(
        "a text for a volume",
        service({"pod": {"volumes": ["x"]}}),
        of_type("spec.pod.volumes[0]", "object", "string"),
    ),
    bad(
        "a number for an engine",
        service({"engine": {"kind": 1}}),
        of_type("spec.engine.kind", "string", "integer"),
        ("spec.engine.kind", 'supported values: "simulated", "vllm", "sglang"'),
    ),
)

VALUES: Final = (
    bad(
        "an unknown engine",
        service({"engine": {"kind": "tgi"}}),
        ("spec.engine.kind", 'supported values: "simulated", "vllm", "sglang"'),
    ),
    bad(
        "an unknown role",
        variant(role="x"),
        ("spec.variants[0].role", 'supported values: "both", "prefill", "decode"'),
    ),
    bad(
        "too few replicas",
        service({"replicas": -1}),
        in_body("spec.replicas", "be greater than or equal to 0"),
    ),
    bad(
        "too many replicas",
        service({"replicas": 5_001}),
        in_body("spec.replicas", "be less than or equal to 5000"),
    ),
    bad(
        "too long a wait",
        service({"rollout": {"progressDeadlineSeconds": 86_401}}),
        in_body("spec.rollout.progressDeadlineSeconds", "be less than or equal to 86400"),
    ),
    bad(
        "a time scale of 0",
        service({"engine": {"simulated": {"timeScale": 0}}}),
        in_body("spec.engine.simulated.timeScale", "be greater than 0"),
    ),
    bad(
        "a price below 0",
        variant(pricePerHour=-0.5),
        in_body("spec.variants[0].pricePerHour", "be greater than or equal to 0"),
    ),
    bad(
        "an empty source",
        service({"model": {"source": ""}}),
        in_body("spec.model.source", "be at least 1 chars long"),
    ),
    bad(
        "a long source",
        service({"model": {"source": "é" * 1_025}}),
        ("spec.model.source", "may not be more than 1024 bytes"),
    ),
    bad("a variant's name", variant(name="A_"), in_body("spec.variants[0].name", _DNS)),
    bad("a scheme", service(_SOURCES), in_body("spec.lora.sources[1]", _SCHEMES)),
    bad(
        "a variant's long name",
        variant(name="a" * 41),
        ("spec.variants[0].name", "may not be more than 40 bytes"),
    ),
    bad(
        "a variable's name",
        service({"engine": {"env": [{"name": "A-B", "value": ""}]}}),
        in_body("spec.engine.env[0].name", "match '^[A-Za-z_][A-Za-z0-9_]*$'"),
    ),
    bad(
        "a quantity",
        variant(resources={"cpu": "1 core", "memory": "16GB"}),
        in_body("spec.variants[0].resources.cpu", _QUANTITY),
        in_body("spec.variants[0].resources.memory", _QUANTITY),
    ),
    bad(
        "too many arguments",
        service({"engine": {"args": ["-x"] * 129}}),
        ("spec.engine.args", "must have at most 128 items"),
    ),
    bad(
        "too many labels",
        variant(nodeSelector={str(i): "x" for i in range(33)}),
        ("spec.variants[0].nodeSelector", "must have at most 32 items"),
    ),
    bad(
        "no variant",
        service({"variants": []}),
        _NO_DECODE,
        in_body("spec.variants", "have at least 1 items"),
    ),
    bad(
        "a variant without a name",
        service({"variants": [{"role": "prefill"}]}),
        ("spec.variants[0].name", "Required value"),
    ),
    bad(
        "a variant whose name is null",
        service({"variants": [{"name": None}]}),
        ("spec.variants[0].name", "Required value"),
    ),
    bad(
        "an empty adapter",
        adapter({}),
        ("spec.base", "Required value"),
        ("spec.source", "Required value"),
    ),
    bad(
        "a digest",
        adapter({"base": "m", "source": "s", "digest": "md5:0"}),
        in_body("spec.digest", "match '^sha256:[0-9a-f]{64}$'"),
    ),
    bad(
        "a long digest",
        adapter({"base": "m", "source": "s", "digest": f"sha256:{'0' * 65}"}),
        ("spec.digest", "may not be more than 71 bytes"),
    ),
    bad(
        "a rank",
        adapter({"base": "m", "source": "s", "rank": 513, "replicas": -1}),
        in_body("spec.rank", "be less than or equal to 512"),
        in_body("spec.replicas", "be greater than or equal to 0"),
    ),
)

RULES: Final = (
    bad(
        "a real engine without a model",
        service({"engine": {"kind": "vllm"}}),
        ("spec", "model.source is required for a real engine"),
    ),
    bad("only prefill", variant(role="prefill"), _NO_DECODE),
    bad(
        "a variable without a value",
        service({"engine": {"env": [{"name": "A"}]}}),
        ("spec.engine.env[0]", "give either value or valueFrom"),
    ),
    bad(
        "a variable whose value is null",
        service({"engine": {"env": [{"name": "A", "value": None}]}}),
        ("spec.engine.env[0]", "give either value or valueFrom"),
    ),
    bad(
        "a variable with two values",
        service({"engine": {"env": [{"name": "A", "value": "x", "valueFrom": {}}]}}),
        ("spec.engine.env[0]", "give either value or valueFrom"),
    ),
    bad(
        "minima beyond maxima",
        variant(minReplicas=3, maxReplicas=2),
        ("spec.variants[0]", "minReplicas must not exceed maxReplicas"),
    ),
    bad(
        "cards that nodes cannot share",
        variant(tensorParallel=3, nodes=2),
        ("spec.variants[0]", _SHARES),
    ),
    bad(
        "more adapters in a step than in memory",
        service({"lora": {"maxLoras": 9, "maxCpuLoras": 8}}),
        ("spec.lora", "maxLoras must not exceed maxCpuLoras"),
    ),
    bad("a rollout that cannot move", service({"rollout": {"maxSurge": 0}}), _NO_SURGE),
    bad(
        "two rules",
        service({"engine": {"kind": "sglang"}, "rollout": {"maxSurge": 0}}),
        _NO_SURGE,
        ("spec", "model.source is required for a real engine"),
    ),
    bad(
        "a rule beside a bound",
        service({"replicas": -1, "rollout": {"maxSurge": 0}}),
        _NO_SURGE,
        in_body("spec.replicas", "be greater than or equal to 0"),
    ),
    bad(
        "a rule broken by what is out of bounds",
        variant(minReplicas=-1, maxReplicas=-2),
        ("spec.variants[0]", "minReplicas must not exceed maxReplicas"),
        in_body("spec.variants[0].minReplicas", "be greater than or equal to 0"),
        in_body("spec.variants[0].maxReplicas", "be greater than or equal to 0"),
    ),
    bad(
        "a rule beside a type is not checked",
        service({"replicas": "1", "rollout": {"maxSurge": 0}}),
        of_type("spec.replicas", "integer", "string"),
    ),
    bad(
        "variants of one name",
        service({"variants": [{"name": "a"}] * 3}),
        ("spec.variants[1]", 'Duplicate value: {"name":"a"}'),
    ),
    bad(
        "variants of one name beside a type",
        service({"replicas": "1", "variants": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}),
        of_type("spec.replicas", "integer", "string"),
        ("spec.variants[2]", 'Duplicate value: {"name":"a"}'),
    ),
    bad(
        "variants of one name, too many",
        service({"variants": [{"name": "a"}] * 17}),
        ("spec.variants", "must have at most 16 items"),
        ("spec.variants[1]", 'Duplicate value: {"name":"a"}'),
    ),
    bad(
        "variables of one name",
        service({"engine": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}}),
        ("spec.engine.env[1]", 'Duplicate value: {"name":"A"}'),
    ),
)

BAD_SPECS: Final = (*UNKNOWN_FIELDS, *NAMES, *TYPES, *VALUES, *RULES)

GOOD_SPECS: Final[Mapping[str, Mapping[str, Any]]] = {
    "nothing said": service({}),
    "nulls": service({"engine": None, "lora": None, "replicas": None, "model": {"name": None}}),
    "a null in a mapping": variant(nodeSelector={"zone": None}),
    "the longest name": service({}, "a" * 40),
    "a name with dots": service({}, "a.b"),
    "an adapter": adapter({"base": "m", "source": "s"}, "a" * 63),
    "several variants": service(
        {
            "engine": {"kind": "vllm", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]},
            "model": {"source": "é" * 1_024},
            "variants": [
                {"name": "p", "role": "prefill", "accelerator": {}, "tensorParallel": 4},
                {"name": "d", "role": "decode", "accelerator": {}, "nodes": 2, "tensorParallel": 4},
            ],
        }
    ),
}
"""Documents that an API server takes."""
