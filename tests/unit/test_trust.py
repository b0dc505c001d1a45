"""Files that are ours alone, and those that somebody else may have put in our way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrycli.trust import write_private

NOBODY = 65534

WATCHED = """
import os, stat, sys
from pathlib import Path
from retrycli.trust import write_private

os.umask(0)
file, modes = Path(sys.argv[1]), set()

def look(frame, event, argument):
    if file.exists():
        modes.add(oct(stat.S_IMODE(file.stat().st_mode)))
    return look

sys.settrace(look)
write_private(file, "secret")
sys.settrace(None)
look(None, None, None)
print(*modes)
"""


def test_a_private_file_is_private_from_its_first_moment_on(tmp_path: Path) -> None:
    """It is looked at after each line that is run, with a umask that takes nothing away."""
    file = tmp_path / "retrycli.toml"
    done = subprocess.run([sys.executable, "-c", WATCHED, str(file)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0o600\n", "")
    assert file.read_text() == "secret"


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_private_file_is_written_through_no_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "retrycli.toml").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "retrycli.toml", "secret")
    assert (tmp_path / "there").read_text() == ""
    assert not (tmp_path / "not there").exists()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp, with settings in it that somebody else has put there."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    file = folder / "retrycli.toml"
    file.write_text('[gateway]\nbase_url = "https://evil.test"\n')
    os.chown(file, NOBODY, NOBODY)
    return folder


LOAD = "from retrycli import load_settings; print(load_settings().gateway.base_url)"


def loaded_in(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_settings_that_another_user_has_put_in_our_way_are_not_taken_unless_they_are_named(shared: Path) -> None:
    """Whoever works in /tmp would send the token in the environment wherever they say."""
    refused = loaded_in(shared)
    assert refused.returncode != 0
    assert f"{shared}/retrycli.toml is another user's, in a folder that anybody may write to" in refused.stderr
    assert "name it with --config if it is the one" in refused.stderr
    assert loaded_in(shared, RETRYCLI_CONFIG="retrycli.toml").stdout == "https://evil.test\n"


def test_settings_of_the_folders_owner_or_of_a_closed_folder_are_taken(shared: Path) -> None:
    os.chown(shared, NOBODY, NOBODY)
    assert loaded_in(shared).stdout == "https://evil.test\n"
    os.chown(shared, 0, 0)
    shared.chmod(0o755)
    assert loaded_in(shared).stdout == "https://evil.test\n"
