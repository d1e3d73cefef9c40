"""How many examples Hypothesis tries; `PUNCTUAL_EXAMPLES=100000 pytest --timeout=0 tests/pipelines` is the long form."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "punctual",
    max_examples=int(os.environ.get("PUNCTUAL_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("punctual")
