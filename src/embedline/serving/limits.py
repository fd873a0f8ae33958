"""How much a server takes in one request."""

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Bounds of a request; one beyond them is refused before the model sees it.

    Attributes:
        body: bytes of the body.
        rows: rows in it.
        seconds: until the whole body has to be there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: int = Field(default=32_000_000, ge=1)
    rows: int = Field(default=100_000, ge=1)
    seconds: float = Field(default=30.0, gt=0.0)
