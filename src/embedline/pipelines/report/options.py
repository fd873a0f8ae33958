"""Settings of the report."""

from pydantic import BaseModel, ConfigDict, Field


class PageOptions(BaseModel):
    """Title and content of the page.

    Attributes:
        title: heading of the page.
        sources: the sources to show, in this order; None for all that the registry has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="embedline: what was learned", min_length=1)
    sources: tuple[str, ...] | None = None
