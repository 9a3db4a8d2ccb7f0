"""`build`: its words, and what it prints. The compiler itself: tests/native."""

import pytest
from cli_helpers import call

from sparsetrain import native


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A compiler of CUDA 12.4 that is quick; returns what it was asked for."""
    asked = []

    def build(archs, toolkit, folder):
        asked.append((archs, folder))
        path = folder / "key" / "library.so"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2_500_000))
        return native.Built(path, toolkit.cuda, archs)

    toolkit = native.Toolkit(tmp_path / "nvcc", (12, 4), "PATH")
    monkeypatch.setattr(native, "find_toolkit", lambda machine, archs: toolkit)
    monkeypatch.setattr(native, "build", build)
    monkeypatch.setattr(native, "look", lambda: native.Machine((), (0, 0)))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    return asked


def test_without_a_gpu_it_compiles_for_all_that_the_compiler_knows(compiled, tmp_path):
    ended = call("build")
    assert ended.status == 0
    assert compiled == [(("80", "89", "90a"), tmp_path / "cache" / "lib")]
    assert "library.so (2.5 MB, 0 s)" in ended.out
    assert "sm_80, sm_89, sm_90a" in ended.out
    assert "sm_100a, sm_120: this CUDA is too old" in ended.out


def test_with_gpus_it_compiles_for_them(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "look", lambda: native.Machine(((9, 0), (8, 0)), (13, 0)))
    assert call("build").status == 0
    assert call("build", "arch=native", f"output={tmp_path / 'out'}").status == 0
    assert [archs for archs, _ in compiled] == [("80", "90a")] * 2


def test_for_another_machine_the_driver_here_does_not_matter(compiled, monkeypatch, tmp_path):
    here = native.Machine(((9, 0),), (12, 4))
    monkeypatch.setattr(native, "look", lambda: here)
    asked = []
    find = native.find_toolkit
    monkeypatch.setattr(native, "find_toolkit", lambda m, archs: asked.append(m) or find(m, archs))
    assert call("build", "arch=80", f"output={tmp_path / 'out'}").status == 0
    assert call("build", "arch=80").status == 0
    assert call("build", "arch=native", f"output={tmp_path / 'own'}").status == 0
    assert asked == [native.Machine((), (0, 0)), here, here]


def test_it_compiles_for_what_is_asked_into_the_folder_that_is_given(compiled, tmp_path):
    ended = call("build", "arch=sm_90a,80", f"output={tmp_path / 'prebuilt'}")
    assert compiled == [(("80", "90a"), tmp_path / "prebuilt")]
    assert "left out" not in ended.out


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("arch=75", ["arch='75'", "native, 80, 89, 90a, 100a, 120"]),
        ("arch=native", ["no GPU", "arch=80,89,90a,100a,120"]),
        ("arch=", ["arch= is empty"]),
        ("90a", ["write arch=90a"]),
        ("outptu=x", ["outptu=", "did you mean output"]),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(compiled, word, parts):
    complaint = call("build", word).complaint
    for part in parts:
        assert part in complaint
    assert compiled == []


def test_a_missing_compiler_is_answered_in_one_line(monkeypatch):
    def refuse(machine, archs):
        raise native.BuildError("no nvcc", "install it")

    monkeypatch.setattr(native, "find_toolkit", refuse)
    assert call("build").complaint == "no nvcc; install it"
