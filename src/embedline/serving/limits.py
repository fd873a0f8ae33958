"""Limits of one request, and of all requests together."""

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Bounds of a request; one beyond them is refused before it is decoded.

    Attributes:
        body: bytes of the body, and characters of the texts in it once it is decoded.
        rows: rows in it.
        cells: values in it, those of ignored columns included.
        text: characters of one value.
        seconds: until the whole body has to be there.
        waiting: how many times ``body`` all bodies that one process reads or answers may have together; the first
            65,536 bytes of each do not count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: int = Field(default=32_000_000, ge=1)
    rows: int = Field(default=100_000, ge=1)
    cells: int = Field(default=4_000_000, ge=1)
    text: int = Field(default=32_000_000, ge=1)
    seconds: float = Field(default=30.0, gt=0.0)
    waiting: float = Field(default=4.0, ge=1.0)
