"""Layout and metadata of each package, by the rules that its ecosystem publishes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sanderling import __version__
from sanderling.firmware_export import export, package
from sanderling.firmware_export.package import KINDS
from sanderling.firmware_export.targets import target
from sanderling.models import zoo

# "Arduino library specification", library.properties file format.
ARDUINO_REQUIRED = {
    "name",
    "version",
    "author",
    "maintainer",
    "sentence",
    "paragraph",
    "category",
    "url",
    "architectures",
}
ARDUINO_OPTIONAL = {"depends", "dot_a_linkage", "includes", "precompiled", "ldflags", "license"}
ARDUINO_CATEGORIES = {
    "Display",
    "Communication",
    "Signal Input/Output",
    "Sensors",
    "Device Control",
    "Timing",
    "Data Storage",
    "Data Processing",
    "Other",
}
SEMANTIC_VERSION = r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?"


def files(kind: package.Kind) -> dict[str, str]:
    options = export.Options(target=target("nano33ble"), kind=kind)
    exported = export.export(zoo.package("watch-cnn"), options, name="watch-cnn", version=__version__)
    return {path: content.decode() for path, content in exported.files.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_package_has_the_runtime_the_tables_and_the_next_commands(kind: package.Kind) -> None:
    found = files(kind)
    for needed in ("network.c", "head.c", "sanderling_model.c", "monocypher.c", "sanderling_memory.c"):
        assert any(path.endswith(f"/{needed}") for path in found), needed
    assert f"Package {kind}: {package.TRIED[kind]}" in found["README.md"]
    assert "report.json" in found
    assert not any(Path(path).is_absolute() or ".." in path for path in found)


def test_arduino_library() -> None:
    found = files("arduino")
    lines = found["library.properties"].splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert len(properties) == len(lines)
    assert ARDUINO_REQUIRED <= set(properties) <= ARDUINO_REQUIRED | ARDUINO_OPTIONAL
    assert all(properties[key] for key in ARDUINO_REQUIRED)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", properties["name"])
    assert not properties["name"].lower().startswith("arduino")
    assert re.fullmatch(SEMANTIC_VERSION, properties["version"])
    assert properties["category"] in ARDUINO_CATEGORIES
    assert properties["url"].startswith("https://")
    assert f"src/{properties['includes']}" in found
    assert "examples/Inference/Inference.ino" in found, "a sketch lies in a folder of its name"
    # 1.5 format: code in src/ alone, which is searched for headers; no utility/ beside it.
    code = [path for path in found if path.endswith((".c", ".h"))]
    assert all(path.startswith("src/") for path in code)


def test_an_arduino_library_compiles_with_src_as_its_only_folder_of_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    options = export.Options(target=target("nano33ble"), kind="arduino")
    exported = export.export(zoo.package("watch-cnn"), options, name="watch-cnn", version=__version__)
    package.write(exported.files, tmp_path / "Sanderling")
    source = tmp_path / "Sanderling" / "src"
    for file in sorted(source.glob("*.c")):  # as the Arduino builder: one by one, gnu11
        command = [compiler, "-std=gnu11", "-fsyntax-only", "-Werror", "-I", str(source), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    cpp = shutil.which("c++")
    if cpp is not None:
        main = tmp_path / "main.cpp"
        main.write_text("#include <Sanderling.h>\nint main() { return sl_model.node_count == 0; }\n")
        command = [cpp, "-std=gnu++17", "-fsyntax-only", "-Werror", "-I", str(source), str(main)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_zephyr_module() -> None:
    found = files("zephyr")
    module = found["zephyr/module.yml"]
    # Zephyr's "Modules": build.cmake is a folder with a CMakeLists.txt, build.kconfig a file, both relative to the root.
    folder = re.search(r"^  cmake: (\S+)$", module, re.MULTILINE)
    kconfig = re.search(r"^  kconfig: (\S+)$", module, re.MULTILINE)
    assert folder and f"{folder[1]}/CMakeLists.txt" in found
    assert kconfig and kconfig[1] in found
    assert re.search(r"^name: [a-z][a-z0-9_-]*$", module, re.MULTILINE)
    assert re.search(r'^config SANDERLING\n\tbool "', found["zephyr/Kconfig"], re.MULTILINE)
    cmake = found["zephyr/CMakeLists.txt"]
    assert cmake.startswith("if(CONFIG_SANDERLING)")
    assert "zephyr_library()" in cmake and "zephyr_library_sources(" in cmake
    assert cmake.count("(") == cmake.count(")")


def test_esp_idf_component() -> None:
    found = files("esp-idf")
    manifest = dict(re.findall(r'^(\w+): "([^"]*)"$', found["idf_component.yml"], re.MULTILINE))
    assert re.fullmatch(SEMANTIC_VERSION, manifest["version"])
    assert manifest["url"].startswith("https://")
    assert re.search(r'^dependencies:\n  idf: ">=5\.0"$', found["idf_component.yml"], re.MULTILINE)
    assert not set(re.findall(r"^(\w+):", found["idf_component.yml"], re.MULTILINE)) - {
        "version",
        "description",
        "url",
        "license",
        "dependencies",
    }
    cmake = found["CMakeLists.txt"]
    assert "idf_component_register(" in cmake
    for key in ("SRCS", "INCLUDE_DIRS", "PRIV_INCLUDE_DIRS"):
        assert key in cmake
    for folder in ("runtime/include/", "model/", "third_party/"):
        assert any(path.startswith(folder) for path in found)


@pytest.mark.parametrize("kind", ["zephyr", "esp-idf"])
def test_sources_that_a_cmake_file_globs_compile_with_its_folders_of_headers(
    kind: package.Kind, tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    for path, text in files(kind).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    headers = [f"-I{tmp_path / folder}" for folder in ("runtime/include", "model", "third_party")]
    for file in sorted(tmp_path.glob("*/**/*.c")):
        if "cmsis" not in str(file):
            command = [compiler, "-std=gnu11", "-fsyntax-only", "-Werror", *headers, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
