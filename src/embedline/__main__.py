"""Entry point of the packaged project: ``embedline`` or ``python -m embedline``, with a command's name."""

import os
import sys
from pathlib import Path
from typing import Any


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the command that the first argument names; with options of ``run`` alone, such as ``--pipelines``, that."""
    # The project's own .telemetry, which says the same, is not part of a wheel.
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    from embedline.cli import cli

    given = args[0] if args else kwargs.get("args")
    given = sys.argv[1:] if given is None else given
    if given and "--help" not in given:  # help needs no project, whose settings take a second to read
        from kedro.framework.project import configure_project

        configure_project(Path(__file__).parent.name)
    is_option = bool(given) and given[0].startswith("-") and given[0] != "--help"
    command = cli.commands["run"] if is_option else cli
    return command(*args, **kwargs)


if __name__ == "__main__":
    main()
