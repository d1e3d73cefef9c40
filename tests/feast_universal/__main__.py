"""Runs Feast's universal tests against our stores.

Usage: `python tests/feast_universal FOLDER`, where FOLDER is Feast's sdk/python/tests; further
arguments are pytest's.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARKERS = ("universal_offline_stores", "universal_online_stores")
# Files that cannot run in our environments; see docs/feast-universal-tests.md.
LEFT_OUT = {"test_dqm_validation.py"}
# Tests of one other store, and tests that return at once if FEAST_IS_LOCAL_TEST is set.
DESELECTED = (
    "online_store/test_universal_online.py::test_async_online_retrieval_with_event_timestamps_dynamo",
    "online_store/test_push_features_to_online_store.py::test_push_features_and_read_async_dynamodb",
    "online_store/test_universal_online.py::test_entity_ttl_online_store",
    "online_store/test_universal_online.py::test_write_to_online_store_event_check",
)


def main(arguments: list[str]) -> int:
    if not arguments or not (Path(arguments[0]) / "universal" / "feature_repos").is_dir():
        given = (
            f"'{arguments[0]}' is not that folder"
            if arguments and arguments[0]
            else "no folder was named"
        )
        print(
            f"Feast's universal tests are in sdk/python/tests of its git repository; {given}.\n"
            "Check out the tag of the installed version and name it: make feast-universal"
            " FEAST_TESTS=…/feast/sdk/python/tests",
            file=sys.stderr,
        )
        return 2
    tests = Path(arguments[0]).resolve()
    files = [
        path for path in sorted((tests / "integration").rglob("test_*.py")) if _is_universal(path)
    ]
    deselected = [f"--deselect=tests/integration/{name}" for name in DESELECTED]
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        f"--rootdir={tests.parent}",
        "--integration",
        *map(str, files),
        *deselected,
    ]
    # Feast's checkout has the package beside the tests; import the installed one before the
    # checkout is on the path.
    pytest += [
        "-p",
        "feast",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-q",
        "-rs",
        "--tb=short",
        "--show-capture=no",
        "--disable-warnings",
    ]
    pytest += [
        "-m",
        "not ray_offline_stores_only and not rbac_remote_integration_test",
        *arguments[1:],
    ]
    return subprocess.run(pytest, env=_environment(), check=False).returncode


def _is_universal(path: Path) -> bool:
    text = path.read_text()
    return path.name not in LEFT_OUT and any(f"mark.{marker}" in text for marker in MARKERS)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(
        [str(HERE), str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {
        **os.environ,
        "PYTHONPATH": path,
        "FULL_REPO_CONFIGS_MODULE": "punctual_stores",
        "FEAST_IS_LOCAL_TEST": "True",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
