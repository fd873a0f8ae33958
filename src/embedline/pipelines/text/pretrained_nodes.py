"""The node that fetches language models to start from.

In a module of its own: the incremental runner takes the files that a module has read for inputs of all nodes in it.
"""

from typing import Any

from embedline.errors import input_name
from embedline.paths import find_source
from embedline.pipelines.text.options import PretrainedOptions


def acquire_pretrained(pretrained: PretrainedOptions | None) -> Any:
    """Fetch and read the language models to start from, as one model bundle; without any if none is given."""
    from embedline.pipelines.text.pretrained_files import read_pretrained

    name, given = input_name("pretrained"), pretrained.addresses() if pretrained else {}
    return read_pretrained({key: find_source(address, f"{name}.{key}") for key, address in given.items()})
