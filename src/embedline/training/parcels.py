"""Send values to the other processes of a training: what is large goes by a mapped file, the rest by pickle."""

import io
import itertools
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

LARGE = 1 << 16  # bytes of an array that is worth a place of its own
CPU = torch.device("cpu")  # what is sent goes by Gloo, also where gradients go by NCCL
ALIGNMENT = 64  # bytes: every array starts at a multiple


class _Packer(pickle.Pickler):
    """Pickle without the contents of large tensors and arrays; these are listed."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.arrays: list[np.ndarray[Any, Any]] = []

    def persistent_id(self, value: Any) -> Any:
        is_tensor = isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter)
        if is_tensor and value.dtype != torch.bfloat16:  # NumPy has no bfloat16
            array = value.detach().cpu().numpy()
        elif isinstance(value, np.ndarray) and value.dtype != object:
            array = value
        else:
            return None
        if array.nbytes < LARGE:
            return None
        self.arrays.append(np.ascontiguousarray(array))
        return len(self.arrays) - 1, is_tensor, array.shape, array.dtype.str


class _Unpacker(pickle.Unpickler):
    """Read what :class:`_Packer` wrote, given the bytes of each array."""

    def __init__(self, file: io.BytesIO, contents: list[np.ndarray[Any, Any]]) -> None:
        super().__init__(file)
        self._contents = contents

    def persistent_load(self, key: Any) -> Any:
        place, is_tensor, shape, dtype = key
        array = self._contents[place].view(dtype).reshape(shape)
        return torch.from_numpy(array) if is_tensor else array


def share(value: Any = None, *, by_file: bool = True) -> Any:
    """The value of rank 0, in every process; all of them call it at the same time.

    Large arrays are written to one file, which the others map: processes of one machine then hold them once. The file
    is deleted as soon as all have mapped it. Where one of them cannot see it (another machine), or ``by_file`` is False
    at rank 0, the bytes go over the network into the memory of each.

    Returns:
        At rank 0 ``value`` itself. Elsewhere tensors come on the CPU; writing to them changes no other process's.
    """
    if dist.get_rank() == 0:
        _send(value, by_file)
        return value
    return _receive()


def _send(value: Any, by_file: bool) -> None:
    packed = io.BytesIO()
    packer = _Packer(packed)
    packer.dump(value)
    arrays = [array.reshape(-1).view(np.uint8) for array in packer.arrays]
    sizes = [len(array) for array in arrays]
    with tempfile.TemporaryDirectory(prefix="embedline-") as folder:
        path = Path(folder, "arrays")
        if arrays and by_file:
            with path.open("wb") as file:
                for start, array in zip(_starts(sizes), arrays, strict=True):
                    file.seek(start)
                    array.tofile(file)
        dist.broadcast_object_list([packed.getvalue(), sizes, str(path) if by_file else None], src=0, device=CPU)
        if not arrays or _all(True):
            return
    for array in arrays:
        dist.broadcast(torch.from_numpy(array if array.flags.writeable else array.copy()), src=0)


def _receive() -> Any:
    message: list[Any] = [None] * 3
    dist.broadcast_object_list(message, src=0, device=CPU)
    packed, sizes, path = message
    contents: list[np.ndarray[Any, Any]] = []
    if sizes:
        seen = path is not None and Path(path).is_file()
        if seen:
            mapped = np.memmap(path, dtype=np.uint8, mode="c")
            contents = [mapped[start : start + n] for start, n in zip(_starts(sizes), sizes, strict=True)]
        if not _all(seen):
            contents = [np.empty(n, dtype=np.uint8) for n in sizes]
            for content in contents:
                dist.broadcast(torch.from_numpy(content), src=0)
    return _Unpacker(io.BytesIO(packed), contents).load()


def _starts(sizes: list[int]) -> list[int]:
    """Where each array of so many bytes begins in the file."""
    rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    return [0, *itertools.accumulate(rounded)][: len(sizes)]


def _all(here: bool) -> bool:
    """Whether it holds in every process."""
    flag = torch.tensor([int(here)])
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())
