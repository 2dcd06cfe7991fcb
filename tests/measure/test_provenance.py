"""How a row says what it was made with."""

import json
import os
import subprocess
import sys

import pytest

from vlaprune_bench.measure.provenance import blas, versions


def test_versions_name_the_kernels_of_linear_algebra():
    assert json.loads(versions())["blas"] == blas()
    assert blas().split()[0] in ("openblas", "mkl", "blis", "accelerate")


@pytest.mark.slow
def test_kernels_are_the_environments_where_it_says_so():
    """The simulator's products follow them, on one processor: trajectories part in the last bit."""
    if not blas().startswith("openblas"):
        pytest.skip("NumPy has another library than OpenBLAS here")
    code = "from vlaprune_bench.measure.provenance import blas; print(blas())"
    environ = {**os.environ, "OPENBLAS_CORETYPE": "Sandybridge"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "Sandybridge"
