"""Run the tests on several versions of Python, each in a virtual environment of its own (`.venv-3.13`).

    python -m tools.test_all 3.11 3.12 3.13 3.14
    python -m tools.test_all --ends 3.11 3.12 3.13 3.14    # the oldest and the newest that can be had

An interpreter comes from PATH, from pyenv, or from uv, which downloads one and checks it against a hash that uv
contains. A version that cannot be had is skipped, and the last lines give the reason. With `--ends` the version that
runs this program is left out: `make test` has tested it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

UV = Path(sys.executable).with_name("uv")


def _works(python: str, version: str) -> bool:
    """Whether it starts and is of this version: a shim on PATH may lead nowhere."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == version


def find(version: str) -> tuple[str, str]:
    """The path of an interpreter, or an empty string and the reason why there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [which(f"python{version}"), *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python{version}")))]
    for candidate in candidates:
        if candidate and _works(candidate, version):
            return candidate, ""
    command = [str(UV), "python", "install", "--no-bin", "--no-progress", version]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        lines = [line.strip() for line in installed.stderr.splitlines() if line.strip()] or ["uv failed"]
        return "", f"not on this machine, and uv cannot download it: {lines[-1].removeprefix('cause: ')}"
    found = subprocess.run(
        [UV, "python", "find", "--managed-python", version], capture_output=True, text=True, check=False
    )
    return found.stdout.strip(), found.stderr.strip()


def main() -> int:
    """Exit code 0 if every version that can be had passes, and at least one can."""
    parser = argparse.ArgumentParser(description="Run the tests on several versions of Python.")
    parser.add_argument("--ends", action="store_true", help="only the oldest and the newest that can be had")
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="such as 3.13; the oldest first")
    arguments = parser.parse_args()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {version: find(version) for version in arguments.versions}
    available = [version for version, (python, _) in found.items() if python]
    chosen = [available[0], available[-1]] if arguments.ends and available else available
    results = {}
    for version, (python, reason) in found.items():
        if reason:
            results[version] = f"skipped: {reason}"
        elif arguments.ends and version == own:
            results[version] = "not run here: `make test` uses this version"
        elif version not in chosen:
            results[version] = "not run here: neither the oldest nor the newest"
        else:
            print(f"Python {version}: {python}", flush=True)
            command = ["make", "test", f"PYTHON={python}", f"VENV=.venv-{version}"]
            results[version] = "FAILED" if subprocess.run(command, check=False).returncode else "passed"
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return 0 if available and "FAILED" not in results.values() else 1


if __name__ == "__main__":
    sys.exit(main())
