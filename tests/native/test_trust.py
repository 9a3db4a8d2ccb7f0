"""A library is loaded only from where nobody but the user and root can put one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from native_helpers import H100, build_in_cache, calls, fake_nvcc, load_module, machine_is

from sparsetrain import native
from sparsetrain.native.find import LIBRARY
from sparsetrain.native.trust import make_folder, trusted

STRANGER = 12345
PARTS = ("library", "build", "lib", "cache", "home")
"""A cached library and the folders above it, inside out."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def home(place, monkeypatch) -> Path:
    """A folder with a cache in it, below others."""
    home = place / "home"
    home.mkdir(0o755)
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(home / "cache"))
    fake_nvcc(place)
    return home


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """The libraries that this machine's process loads."""
    return machine_is(monkeypatch, H100)


@pytest.fixture
def forget(monkeypatch) -> Callable[[], None]:
    """Have the next `load` look again."""
    return lambda: monkeypatch.setattr(load_module, "_library", None)


def part_of(library: Path, part: str) -> Path:
    return (library, *library.parents)[PARTS.index(part)]


def refused(path: Path, reason: str, fix: str) -> None:
    """Neither load nor a build gives the library, and both name the path and the fix."""
    library = native.load()
    assert library.path is None
    assert library.reason == f"{path} {reason}"
    assert fix in library.fix
    assert "\n" not in library.reason + library.fix
    assert native.require().path is None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("bits", "who"),
    [(0o020, "group {gid}"), (0o002, "everyone"), (0o022, "everyone and group {gid}")],
)
def test_what_others_may_write_is_not_loaded(bits, who, part, home, loaded):
    path = part_of(build_in_cache().path, part)
    compiled = len(calls(home.parent))
    path.chmod(path.stat().st_mode | bits)
    who = who.format(gid=path.stat().st_gid)
    refused(path, f"is writable by {who}", f"chmod go-w {path}")
    with pytest.raises(native.BuildError, match="chmod go-w"):
        build_in_cache()
    assert loaded == []
    assert len(calls(home.parent)) == compiled


@as_root
@pytest.mark.parametrize("part", PARTS)
def test_what_belongs_to_somebody_else_is_not_loaded(part, home, loaded):
    path = part_of(build_in_cache().path, part)
    os.chown(path, STRANGER, -1)
    refused(path, f"belongs to user {STRANGER}, neither to you nor to root", "chown -R root")
    with pytest.raises(native.BuildError, match="set SPARSETRAIN_CACHE"):
        build_in_cache()
    assert loaded == []


@as_root
@pytest.mark.parametrize("part", PARTS)
def test_a_user_is_told_to_choose_another_folder_where_chmod_is_not_theirs(
    part, home, loaded, monkeypatch
):
    path = part_of(build_in_cache().path, part)
    path.chmod(path.stat().st_mode | 0o020)
    monkeypatch.setattr("os.geteuid", lambda: STRANGER)
    refused(path, f"is writable by group {path.stat().st_gid}", "set SPARSETRAIN_CACHE to a folder")
    assert loaded == []


@pytest.mark.parametrize("part", ["library", "build", "lib"])
def test_a_link_is_as_good_as_what_it_leads_to(part, home, loaded, forget):
    built = build_in_cache()
    path = part_of(built.path, part)
    there = home / "elsewhere"
    there.mkdir(0o755)
    moved = path.rename(there / path.name)
    path.symlink_to(moved)
    real = built.path.resolve()
    assert native.load().path == real
    assert loaded == [str(real)]
    there.chmod(0o777)
    forget()
    refused(there, "is writable by everyone and group " + str(there.stat().st_gid), "chmod go-w")
    assert loaded == [str(real)]


def test_a_link_in_a_folder_of_everybody_is_not_followed(home, loaded):
    built = build_in_cache()
    built.path.parent.rename(home / "mine")
    built.path.parent.symlink_to(home / "mine")
    lib = native.cache_folder()
    lib.chmod(0o777)
    refused(lib, f"is writable by everyone and group {lib.stat().st_gid}", "chmod go-w")
    assert loaded == []


def test_a_sticky_folder_may_stand_above_the_builds_but_not_hold_them(home, loaded, forget):
    built = build_in_cache()
    for folder in (home / "cache", home):
        folder.chmod(0o1777)
    assert native.load().path == built.path
    forget()
    native.cache_folder().chmod(0o1777)
    library = native.load()
    assert library.fix == "name a folder inside it"
    assert loaded == [str(built.path)]


@as_root
def test_in_a_sticky_folder_what_others_own_is_not_loaded(home, loaded):
    build_in_cache()
    home.chmod(0o1777)
    os.chown(home / "cache", STRANGER, -1)
    refused(home / "cache", f"belongs to user {STRANGER}, neither to you nor to root", "chown")
    assert loaded == []


def test_a_build_for_oneself_whatever_the_umask(home, loaded):
    before = os.umask(0o002)
    try:
        built = build_in_cache()
    finally:
        os.umask(before)
    for folder in (home / "cache", home / "cache" / "lib"):
        assert folder.stat().st_mode & 0o777 == 0o700
    for path in (built.path.parent, built.path, built.log):
        assert path.stat().st_mode & 0o022 == 0
    assert native.load().path == built.path


def carried(place: Path) -> Path:
    toolkit = native.find_toolkit(H100, ("90a",))
    return native.build(("90a",), toolkit, place / "package" / "prebuilt").path


def test_what_a_package_carries_is_for_all_who_may_read_it(home, place):
    path = carried(place)
    assert path.parent.stat().st_mode & 0o755 == 0o755
    assert path.parent.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("part", ["library", "build", "lib"])
def test_what_a_package_carries_is_trusted_as_far_as_the_package(part, home, place, loaded, forget):
    mine, path = build_in_cache().path, carried(place)
    open_to = part_of(path, part)
    open_to.chmod(open_to.stat().st_mode | 0o020)
    assert native.load().path == mine, "it is passed over"
    forget()
    (place / "package").chmod(0o775)
    assert native.load().path == path
    forget()
    open_to.chmod(open_to.stat().st_mode | 0o002)
    assert native.load().path == mine


@as_root
@pytest.mark.parametrize("part", ["library", "build", "lib"])
def test_what_somebody_put_into_a_package_is_not_loaded(part, home, place, loaded, forget):
    path = carried(place)
    os.chown(part_of(path, part), STRANGER, -1)
    (place / "bin" / "nvcc").unlink()
    refused(
        part_of(path, part),
        f"belongs to user {STRANGER}, neither to you nor to root",
        "python -m sparsetrain build",
    )
    os.chown(place / "package", STRANGER, -1)
    forget()
    assert native.load().path == path, "the package is the stranger's too"
    os.chown(part_of(path, part), STRANGER + 1, -1)
    forget()
    assert native.load().path is None
    assert loaded == [str(path)]


def test_what_is_not_there_is_not_trusted(home):
    with pytest.raises(FileNotFoundError):
        trusted(home / LIBRARY)


def test_a_file_in_the_place_of_a_folder_is_an_error(home):
    (home / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder(home / "file")
    with pytest.raises(NotADirectoryError):
        make_folder(home / "file" / "below")
