"""Firmware as people's build systems want it: plain CMake, an Arduino library, a Zephyr module, an ESP-IDF component.

Each layout follows its published rules: the Arduino library specification (1.5 format), Zephyr's "Modules" (module.yml),
ESP-IDF's "Build System" and its component manifest. A layout is a mapping from paths to contents; only `write` touches the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sanderling.firmware_export.native import RUNTIME
from sanderling.firmware_export.targets import FOLDER
from sanderling.models.errors import UsageError

Kind = Literal["cmake", "arduino", "zephyr", "esp-idf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Files = Mapping[str, bytes]  # by path, with slashes

HOMEPAGE = "https://sanderling.example"  # until the project has one: RFC 2606
SENTENCE = "Federated learning on the board: int8 inference, and training of the last layer."
TRIED = {
    "cmake": "built by Sanderling's tests",
    "arduino": "metadata and layout are tested, and its C compiles; not built with the Arduino IDE",
    "zephyr": "metadata and layout are tested, and its C compiles; not built with west",
    "esp-idf": "metadata and layout are tested, and its C compiles for Arm; not built with idf.py, so never for Xtensa",
}  # how far each is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What goes into every package. `tables` are the model's, generated; `board` is the board's folder in boards/."""

    version: str
    tables: Files
    third_party: Files  # flat: monocypher.c, monocypher.h
    settings: Mapping[str, str]  # CMake variables that the exporter chose
    board: str
    core: str | None
    readme: str


def package(kind: Kind, parts: Parts) -> dict[str, bytes]:
    """All files of a package, by path."""
    files = _LAYOUTS[kind](parts)
    return {**files, "README.md": parts.readme.encode()}


def write(files: Files, folder: Path) -> None:
    """Into a folder that is new or empty; UsageError for another, whose files may be somebody's work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not an empty folder; give --out a new one, so that nothing is overwritten"
        )
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _cmake(parts: Parts) -> dict[str, bytes]:
    boards = ["common", parts.board]
    settings = "".join(f'set({name} "{value}" CACHE STRING "")\n' for name, value in parts.settings.items())
    files = {
        "CMakeLists.txt": (FOLDER / "CMakeLists.txt").read_bytes(),
        "settings.cmake": b"# What `sanderling export firmware` was told.\n" + settings.encode(),
        "boards/boards.cmake": (FOLDER / "boards" / "boards.cmake").read_bytes(),
        **_tree(RUNTIME, "runtime/"),
        **_under("third_party/", parts.third_party),
        **_under("model/", parts.tables),
        **_tree(FOLDER / "apps", "apps/"),
    }
    for board in boards:
        files |= _tree(FOLDER / "boards" / board, f"boards/{board}/")
    if parts.core is not None:
        for name in ("arm-none-eabi", parts.core):
            files[f"cmake/{name}.cmake"] = (FOLDER / "cmake" / f"{name}.cmake").read_bytes()
    return files


def _arduino(parts: Parts) -> dict[str, bytes]:
    headers = sorted(path.name for path in (RUNTIME / "include" / "sanderling").glob("*.h"))
    tables = sorted(name for name in parts.tables if name.endswith(".h"))
    includes = [f'#include "sanderling/{name}"' for name in headers] + [
        f'#include "{name}"' for name in tables
    ]
    return {
        "library.properties": _properties(
            name="Sanderling",
            version=parts.version,
            author="The Sanderling authors",
            maintainer="The Sanderling authors",
            sentence=SENTENCE,
            paragraph="Made by `sanderling export firmware` for one model; its tables are in src/.",
            category="Data Processing",
            url=HOMEPAGE,
            architectures="*",
            includes="Sanderling.h",
            license="Apache-2.0",
        ),
        "src/Sanderling.h": _lines(
            "/* Everything of the runtime and the model, for C++ as well. */",
            "#ifndef SANDERLING_H",
            "#define SANDERLING_H",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            *includes,
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "#endif",
        ),
        **_tree(RUNTIME / "include", "src/"),
        **_tree(RUNTIME / "src", "src/"),
        **_under("src/", parts.third_party),
        **_under("src/", parts.tables),
        "examples/Inference/Inference.ino": (FOLDER / "packages" / "Inference.ino").read_bytes(),
    }


def _zephyr(parts: Parts) -> dict[str, bytes]:
    return {
        "zephyr/module.yml": _lines(
            "name: sanderling", "build:", "  cmake: zephyr", "  kconfig: zephyr/Kconfig"
        ),
        "zephyr/Kconfig": _lines(
            "config SANDERLING",
            '\tbool "Sanderling: federated learning on the board"',
            "\thelp",
            f"\t  {SENTENCE}",
        ),
        "zephyr/CMakeLists.txt": _lines(
            "if(CONFIG_SANDERLING)",
            "  set(root ${CMAKE_CURRENT_LIST_DIR}/..)",
            "  file(GLOB sources CONFIGURE_DEPENDS ${root}/runtime/src/*.c ${root}/model/*.c ${root}/third_party/*.c)",
            "  zephyr_include_directories(${root}/runtime/include ${root}/model)",
            "  zephyr_library()",
            "  zephyr_library_sources(${sources})",
            "  zephyr_library_include_directories(${root}/third_party)",
            "  zephyr_library_compile_options(-ffp-contract=off) # the few products in double decide bytes",
            "endif()",
        ),
        **_sources(parts),
    }


def _esp_idf(parts: Parts) -> dict[str, bytes]:
    return {
        "idf_component.yml": _lines(
            f'version: "{parts.version}"',
            f'description: "{SENTENCE}"',
            f'url: "{HOMEPAGE}"',
            'license: "Apache-2.0"',
            "dependencies:",
            '  idf: ">=5.0"',
        ),
        "CMakeLists.txt": _lines(
            "file(GLOB sources CONFIGURE_DEPENDS",
            "    ${CMAKE_CURRENT_LIST_DIR}/runtime/src/*.c",
            "    ${CMAKE_CURRENT_LIST_DIR}/model/*.c",
            "    ${CMAKE_CURRENT_LIST_DIR}/third_party/*.c)",
            "idf_component_register(",
            "    SRCS ${sources}",
            "    INCLUDE_DIRS runtime/include model",
            "    PRIV_INCLUDE_DIRS third_party)",
            "# The few products in double decide bytes.",
            "target_compile_options(${COMPONENT_LIB} PRIVATE -ffp-contract=off)",
        ),
        **_sources(parts),
    }


_LAYOUTS: Mapping[Kind, Callable[[Parts], dict[str, bytes]]] = {
    "cmake": _cmake,
    "arduino": _arduino,
    "zephyr": _zephyr,
    "esp-idf": _esp_idf,
}


def _sources(parts: Parts) -> dict[str, bytes]:
    return {
        **_tree(RUNTIME / "include", "runtime/include/"),
        **_tree(RUNTIME / "src", "runtime/src/"),
        **_under("third_party/", parts.third_party),
        **_under("model/", parts.tables),
    }


def _tree(folder: Path, prefix: str) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _under(prefix: str, files: Files) -> dict[str, bytes]:
    return {prefix + path: content for path, content in files.items()}


def _properties(**values: str) -> bytes:
    return _lines(*(f"{key}={value}" for key, value in values.items()))


def _lines(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()
