"""Device and precision are resolved once, and what is not there is refused by name."""

import pytest
import torch
from fits import plain_options

from embedline.errors import DataError
from embedline.training.device import device_name, make_accelerator, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == device_name(CPU) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(DataError, match=r"training\.device is 'cuda' but PyTorch finds no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_a_gpu_is_the_native_one(native, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    precision, reason = resolve_precision("auto", torch.device("cuda"))
    assert precision == expected and "native" in reason


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_a_precision_by_name_is_taken(device: torch.device) -> None:
    assert resolve_precision("fp32", device) == ("fp32", "as set")
    assert resolve_precision("bf16", device) == ("bf16", "as set")
    assert resolve_precision("auto", CPU) == ("auto", "")  # left to a measurement


def test_one_process_may_train_in_two_precisions() -> None:
    modes = []
    for precision in ("fp32", "bf16", "fp32"):
        accelerator = make_accelerator(plain_options(precision=precision))
        with accelerator.autocast():
            modes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        assert accelerator.device == CPU
    assert modes == [torch.float32, torch.bfloat16, torch.float32]
