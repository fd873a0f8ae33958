"""Nodes of the report: stored artifacts into sections, and sections into the page."""

from typing import Any

from embedline.pipelines.report.options import PageOptions

Json = dict[str, Any]


def collect_section(origin: str | None = None, **artifacts: Any) -> Json:
    """Collect the stored artifacts of one source; see :func:`.sections.collect`.

    Args:
        origin: the parameter ``source``: where the raw data come from.
        artifacts: by name; None for a missing one.
    """
    from embedline.pipelines.report.sections import collect

    return collect(artifacts, origin)


def write_page(page_options: PageOptions, **sections: Json) -> str:
    """The page as HTML; see :func:`.page.render`."""
    from embedline.pipelines.report.page import render

    return render(sections, page_options)
