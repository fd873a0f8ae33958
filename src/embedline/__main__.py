"""Entry point of the packaged project: ``embedline`` or ``python -m embedline``, with a command's name."""

import os
import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the command that the first argument names; with options of ``run`` alone, such as ``--pipelines``, that."""
    # The project's own .telemetry, which says the same, is not part of a wheel.
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
    package_name = Path(__file__).parent.name
    configure_project(package_name)
    interactive = hasattr(sys, "ps1")
    kwargs["standalone_mode"] = not interactive
    run = find_run_command(package_name)
    given = args[0] if args else kwargs.get("args")
    first = next(iter(sys.argv[1:] if given is None else given), None)
    from embedline.cli import cli

    is_option = first is not None and first.startswith("-") and first != "--help"
    command = run if is_option else cli
    return command(*args, **kwargs)


if __name__ == "__main__":
    main()
