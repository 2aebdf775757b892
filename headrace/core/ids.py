"""Names for things, as distinct types. Pure."""

from __future__ import annotations

from typing import NewType

RequestId = NewType("RequestId", str)
EndpointId = NewType("EndpointId", str)
ModelName = NewType("ModelName", str)
TenantId = NewType("TenantId", str)

BlockHash = NewType("BlockHash", int)
"""64-bit hash of one block of a prompt, chained on the hash of the block before it."""
