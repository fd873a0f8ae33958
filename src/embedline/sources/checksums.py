"""Known files: those that a public archive holds are told by their sha256."""

import hashlib

from embedline.errors import DataError


def check_sha256(name: str, data: bytes, expected: str, *, source: str, whose: str) -> None:
    """Raise a DataError unless ``data`` has the sha256 ``expected``; it names the file, the source and the way round.

    Args:
        name: file, as the message calls it.
        source: address that it came from.
        whose: owner of the known file, such as ``Kaggle's file``.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} in {source} is not {whose}: its sha256 is {found}, expected {expected}; "
            "to use another version of the data, turn the check off (verify: false)"
        )
