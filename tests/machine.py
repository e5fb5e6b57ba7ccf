"""What the tests ask of the machine: what it may lack, with what to type then, and what its processor promises."""

import shutil

import torch

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Reasons of skipped tests, as the closing line has them behind their number.
WITHOUT_CHROMIUM = "without chromium (apt-get install chromium)"
WITHOUT_CURL = "without curl (apt-get install curl)"
WITHOUT_AIOHTTP = "without aiohttp (.venv/bin/pip install -r requirements-ray.txt)"
WITHOUT_POSTGRESQL = "without PostgreSQL (apt-get install postgresql)"


def same_in_any_batch(precision: str) -> float:
    """How far a vector of length 1 may be from what it is in another batch.

    No processor with AMX was at hand to see whether its products are the same for any number of rows.
    """
    instructions: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return 1e-2 if precision != "fp32" and instructions.get("amx_bf16") else 1e-6
