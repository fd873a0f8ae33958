"""A model as one file: safetensors weights with its settings, encoder, metrics and versions in the header."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from typing import Any, Self

import safetensors
import safetensors.torch
from torch import Tensor

from embedline import __version__
from embedline.errors import DataError

FORMAT = "embedline-bundle-1"
JSON_PARTS = ("config", "encoder", "metrics", "versions")  # of the header, beside the format and the kind
LIBRARIES = ("torch", "numpy", "polars", "pandas", "safetensors")  # those that shape a model


@dataclass(frozen=True)
class ModelBundle:
    """All that a prediction needs, without pickle and without the project's configuration.

    Attributes:
        kind: learner that can read the bundle, such as ``tabular``.
        config: arguments that rebuild the network; JSON values.
        encoder: fitted state that turns raw rows into tensors; JSON values.
        weights: tensors by name; members of an ensemble carry the prefix ``0.``, ``1.``, …
        metrics: of the training.
        versions: of Python and the libraries that stored it; empty until then.
    """

    kind: str
    config: dict[str, Any]
    encoder: dict[str, Any]
    weights: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise to the safetensors format; everything but the weights goes into its metadata as JSON."""
        own = {"python": platform.python_version(), "embedline": __version__}
        versions = self.versions or own | {name: importlib.metadata.version(name) for name in LIBRARIES}
        parts = {name: json.dumps(getattr(self, name)) for name in JSON_PARTS} | {"versions": json.dumps(versions)}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.weights.items()}
        return safetensors.torch.save(weights, metadata={"format": FORMAT, "kind": self.kind, **parts})

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "the bundle") -> Self:
        """Read what :meth:`to_bytes` wrote; a DataError that starts with ``name`` if it is no bundle of this format."""
        try:
            weights = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise DataError(f"{name} is not a readable model bundle: {error}") from error
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size]).get("__metadata__") or {}
        if header.get("format") != FORMAT:
            raise DataError(f"{name} has the format {header.get('format')!r}; this version reads {FORMAT!r}")
        if missing := [part for part in ("kind", *JSON_PARTS) if part not in header]:
            raise DataError(f"{name} has no {', '.join(missing)}: it was not written by this library")
        return cls(kind=header["kind"], weights=weights, **{part: json.loads(header[part]) for part in JSON_PARTS})

    def member(self, index: int) -> dict[str, Tensor]:
        """State dictionary of member ``index`` of the ensemble."""
        prefix = f"{index}."
        return {name.removeprefix(prefix): value for name, value in self.weights.items() if name.startswith(prefix)}
