"""What this machine computes with: which device, in which precision, through which library.

It knows nothing of models. `embed.clip.encoder` asks it when it loads one.
"""

import torch

from embed.clip.weights import EncoderUnavailable


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for one of `embed.clip.options.DEVICES`; auto takes the GPU when there is one.

    Raises EncoderUnavailable for a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise EncoderUnavailable("device cuda was asked for, and torch sees no CUDA GPU; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and available else "cpu")


def choose_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for one of `embed.clip.options.PRECISIONS`; auto takes what the hardware multiplies fast."""
    if wanted != "auto":
        return wanted
    fallback = "fp16" if device.type == "cuda" else "fp32"
    return "bf16" if has_products("bf16", device) else fallback


def has_products(precision: str, device: torch.device) -> bool:
    """Whether the device has instructions for products in this precision, and they are used here.

    Without them products in halves are slow (bench/RESULTS.md), and those of one row and of many round differently.
    """
    if device.type == "cuda":
        # before Ampere a GPU only emulates bfloat16
        return precision != "bf16" or torch.cuda.get_device_capability(device) >= (8, 0)
    if precision != "bf16":
        return precision == "fp32"
    return bool({"amx_bf16", "avx512_bf16"} & cpu_instructions()) and uses_onednn(torch.bfloat16)


def cpu_instructions() -> set[str]:
    """The names that torch has for what the processor has; empty with an older torch, which does not tell."""
    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name, there in told.items() if there is True}


def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether products of this dtype go through oneDNN on a CPU: on the processors that it was tried on.

    Whoever holds oneDNN to AVX2 (ONEDNN_MAX_CPU_ISA=AVX2) has no bfloat16, whatever the processor.
    """
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32
