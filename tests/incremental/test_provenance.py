"""What made an artifact, and which old versions may go."""

import pytest
from rich.console import Console
from shop import Shop

from kedro_incremental import RunnerError
from kedro_incremental.provenance import Provenance, explain, find_removals, remove
from kedro_incremental.report import make_console


def told(shop: Shop, dataset: str, version: str | None = None) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(explain(shop.manifest, dataset, version))
    return captured.get()


def removals(shop: Shop, keep: int) -> set[tuple[str, str]]:
    """What pruning would delete."""
    found = find_removals(shop.catalog("now"), [shop.pipeline()], shop.manifest, keep)
    return {(removal.dataset, removal.version) for removal in found}


def run_with(shop: Shop, **parameters: object) -> None:
    shop.parameters |= parameters
    shop.ran()


def test_why_tells_node_reason_parameters_code_and_inputs(shop: Shop) -> None:
    shop.ran()
    run_with(shop, by=3)  # v002
    run_with(shop, title="all")  # v003
    said = told(shop, "text")
    for part in (
        "text  version v003, content",
        *("made by the node describe", "in the run v003, because: parameter title changed sum → all"),
        *("title = all", "python 3.", "total  version v002"),
        "made by add in the run v002, because: input cleaned changed",
        *("cleaned  version v002", "because: parameter by changed 2 → 3"),
        *("raw  version none", "not made by a recorded run", "raw.json"),
    ):
        assert part in said
    old = told(shop, "text", "v001")
    assert "text  version v001, not the current one" in old and "because: first run" in old
    with pytest.raises(RunnerError, match="no recorded run made 'txet': did you mean 'text'"):
        explain(shop.manifest, "txet")
    with pytest.raises(RunnerError, match="no recorded run made the version v9 of text; known: v003, v002, v001"):
        explain(shop.manifest, "text", "v9")
    provenance = Provenance.read(shop.manifest)  # ancestors go back to the raw file
    stored = {("total", "v002"), ("count", "v002"), ("cleaned", "v002")}
    assert provenance.ancestors("text", "v003") == {*stored, ("raw", None)}
    assert provenance.current == {"cleaned": "v002", "total": "v002", "count": "v002", "text": "v003"}


def test_prune_keeps_the_newest_the_current_and_what_they_were_made_from(shop: Shop) -> None:
    shop.ran()  # v001: everything
    run_with(shop, by=3)  # v002: cleaned, total, count (the same content), text
    run_with(shop, title="all")  # v003: text alone, from total and count of v002
    run_with(shop, by=4)  # v004: everything
    run_with(shop, title="some")  # v005: text alone
    assert removals(shop, keep=9) == set()
    one = {("cleaned", "v001"), ("cleaned", "v002"), ("text", "v001"), ("text", "v002"), ("text", "v003")}
    one |= {("text", "v004"), ("total", "v001"), ("total", "v002"), ("count", "v001"), ("count", "v002")}
    assert removals(shop, keep=1) == one
    # Keeping three texts keeps text v003, which was made from total and cleaned of v002.
    assert removals(shop, keep=3) == {("text", "v001"), ("text", "v002")}
    found = find_removals(shop.catalog("now"), [shop.pipeline()], shop.manifest, 1)
    assert all(removal.size == len(shop.file(removal.dataset, removal.version).read_bytes()) for removal in found)
    remove(found, shop.manifest)
    for dataset, version in one:
        assert not shop.file(dataset, version).parent.exists()
    assert removals(shop, keep=1) == set()
    assert sorted(shop.manifest.history()) == ["v004", "v005"]
    assert shop.ran() == [] and shop.value("text") == "some: 240 in 3"


def test_prune_keeps_a_current_version_that_is_not_among_the_newest(shop: Shop) -> None:
    shop.ran()
    for version in ("v901", "v902"):  # of another tool
        stray = shop.file("total", version)
        stray.parent.mkdir()
        stray.write_text("{}")
    assert removals(shop, keep=1) == {("total", "v901")}
    with pytest.raises(RunnerError, match="keep must be at least 1, got 0"):
        removals(shop, keep=0)


@pytest.mark.parametrize("value", ["[/INST]", "[a-z]+", "[red]x[/red]", "[", "\\[b]", "[link=x]y[/link]", "\x1b[31m"])
def test_brackets_are_printed_as_they_are(shop: Shop, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    shop.ran()
    shop.parameters["title"] = value
    capsys.readouterr()
    expected = value.replace("\x1b", "\\x1b")
    shop.steps(dry_run=True)
    assert shop.error is None and expected in capsys.readouterr().out
    shop.ran(verbosity="verbose")
    assert expected in capsys.readouterr().out
    make_console().print(explain(shop.manifest, "text"), soft_wrap=True)
    said = capsys.readouterr().out
    assert f"title = {expected}" in said and f"sum → {expected}" in said
