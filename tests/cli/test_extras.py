"""Without an extra's package, what needs it ends in one line that names the extra; everything else works."""

import subprocess
import sys
from pathlib import Path

import pytest

from safelight.local.cluster import environment, ephemeral_config
from tests.running import GENEROUS

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"PIL", "obstore"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from safelight.cli.main import main
sys.argv[0] = "safelight"
main()
"""


def without_extras(*arguments: str, cwd: Path, vault: str = "") -> subprocess.CompletedProcess[str]:
    """`safelight` in a process that finds neither Pillow nor obstore."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        env=environment(ephemeral_config(cwd, vault=vault)),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=2 * GENEROUS,
    )


def assert_names(extra: str, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert f"needs a package that is not installed: run pip install 'safelight[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_demo_without_pillow_names_the_extra_before_it_starts_a_node(tmp_path: Path) -> None:
    done = without_extras("demo", cwd=tmp_path)
    assert_names("page", done)
    assert "Node 1" not in done.stdout
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", [("server", "1"), ("verify",), ("user", "list")])
def test_a_bucket_vault_without_obstore_names_the_extra(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert without_extras("init", cwd=tmp_path).returncode == 0
    assert_names("bucket", without_extras(*command, cwd=tmp_path, vault="s3://images"))


def test_a_directory_vault_needs_no_extra(tmp_path: Path) -> None:
    assert without_extras("init", cwd=tmp_path).returncode == 0
    listed = without_extras("user", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
