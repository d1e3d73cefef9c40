"""The domain of taxi trips, and how many examples Hypothesis tries.

`PUNCTUAL_EXAMPLES=100000 pytest --timeout=0 tests/pipelines` is the long form.
"""

import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from tests.pipelines.taxis import Taxis

settings.register_profile(
    "punctual",
    max_examples=int(os.environ.get("PUNCTUAL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("punctual")


@pytest.fixture
def taxis(tmp_path, home):
    return Taxis(tmp_path, home)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Runs a function with its own data folder and returns its result."""

    def elsewhere(function):
        with monkeypatch.context() as patch:
            # Hypothesis seeds `random` for each example, so a random name would repeat.
            patch.setenv("PUNCTUAL_HOME", tempfile.mkdtemp(dir=tmp_path))
            return function()

    return elsewhere
