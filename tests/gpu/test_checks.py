"""The checks of `make gpu-proof`, one test each, where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from gpu_proof import drawn
from gpu_proof.checks import CHECKS
from gpu_proof.ground import Ground

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("gpu")
    drawn.write_photos(folder / "photos", 192, 48, 200)
    return Ground(torch.device("cuda", 0), False, folder, ("gpu-whole", "cpu"))


@pytest.mark.parametrize("name", list(CHECKS))
def test_what_holds_on_a_gpu(ground: Ground, name: str) -> None:
    CHECKS[name].run(ground)
