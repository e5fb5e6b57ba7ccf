"""Choose the device and the precision, and detect CPU instructions and oneDNN."""

import torch

from embed.clip.weights import EncoderUnavailable


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for one of `embed.clip.options.DEVICES`; auto is the GPU if there is one.

    Raises EncoderUnavailable for "cuda" without a GPU.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise EncoderUnavailable("--device cuda: torch finds no CUDA GPU; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and available else "cpu")


def choose_precision(wanted: str, device: torch.device) -> str:
    """One of `embed.clip.options.PRECISIONS`; auto becomes bf16 if native, else fp16 on a GPU and fp32 on a CPU."""
    if wanted != "auto":
        return wanted
    fallback = "fp16" if device.type == "cuda" else "fp32"
    return "bf16" if has_products("bf16", device) else fallback


def has_products(precision: str, device: torch.device) -> bool:
    """Whether matrix products in this precision use the device's own instructions.

    Without them, half precision is slow (bench/RESULTS.md), and one row rounds differently from many.
    """
    if device.type == "cuda":
        # before Ampere a GPU only emulates bfloat16
        return precision != "bf16" or torch.cuda.get_device_capability(device) >= (8, 0)
    if precision != "bf16":
        return precision == "fp32"
    return bool({"amx_bf16", "avx512_bf16"} & cpu_instructions()) and uses_onednn(torch.bfloat16)


def cpu_instructions() -> set[str]:
    """torch's names of the CPU's instruction sets; empty if torch is too old to list them."""
    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name, there in told.items() if there is True}


def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether CPU matrix products of this dtype use oneDNN: only with AVX2 or AVX-512, where it was tested.

    With oneDNN limited to AVX2 (ONEDNN_MAX_CPU_ISA=AVX2) no CPU has bfloat16.
    """
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32
