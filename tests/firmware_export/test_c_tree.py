"""The text of generated C: small trees by hand, and whole networks that compile without a warning to the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from sanderling.firmware_export import c_tree, native
from sanderling.firmware_export.c_tree import Export
from sanderling.firmware_export.generate import generate
from sanderling.models import zoo
from sanderling.models.c_data import Function, Struct, Table
from sanderling.models.lowering import lower
from sanderling.models.native import NativeNetwork, declarations
from tests.firmware_export.kernel_cases import hard_cases, random_cases


def point(x: int, y: int) -> Struct:
    return Struct(ctype="point", fields={"x": x, "y": y})


def text_of(value: Struct | Table) -> str:
    return c_tree.source("Made here.", ["points.h"], [Export(name="it", value=value, comment="It.")])


def test_a_struct_names_its_fields():
    assert text_of(point(1, -2)) == (
        '/* Made here. */\n#include "points.h"\n\nconst point it = {.x = 1, .y = -2};\n'
    )


def test_tables_come_before_what_points_at_them_and_equal_ones_once():
    numbers = np.array([1, 2, 3], np.int8)
    line = Struct(
        ctype="line",
        fields={
            "ends": Table(ctype="point", values=(point(0, 0), point(5, 6)), name="points"),
            "marks": Table(ctype="int8_t", values=numbers, name="marks"),
            "others": Table(ctype="int8_t", values=numbers.copy(), name="others"),
            "draw": Function(name="draw_line"),
            "next": None,
            "closed": False,
            "sizes": (4, 5),
            "width": 0.1,
        },
    )
    assert text_of(line).split("\n\n")[1:] == [
        "static const point points_0[2] = {{.x = 0, .y = 0}, {.x = 5, .y = 6}};",
        "static const int8_t marks_0[3] = {1, 2, 3};",
        "const line it = {\n"
        "    .ends = points_0,\n    .marks = marks_0,\n    .others = marks_0,\n    .draw = draw_line,\n"
        "    .next = NULL,\n    .closed = false,\n    .sizes = {4, 5},\n    .width = 0x1.999999999999ap-4,\n};\n",
    ]


def test_numbers_at_the_ends_of_their_types():
    words = c_tree.array("uint32_t", np.array([0, 2**32 - 1], np.uint32), "words")
    assert "it[2] = {0x00000000, 0xffffffff};" in text_of(words)
    lowest = c_tree.array("int32_t", np.array([-(2**31), 2**31 - 1], np.int32), "lowest")
    assert "it[2] = {INT32_MIN, 2147483647};" in text_of(lowest)


def test_long_arrays_are_filled_into_lines():
    lines = text_of(c_tree.array("uint8_t", bytes(range(200)), "bytes")).splitlines()
    assert max(map(len, lines)) <= 104
    assert "\n".join(lines).count(",") == 200


def test_a_header_declares_what_the_source_defines():
    text = c_tree.header(
        "POINTS_H",
        "Made here.",
        ["points.h"],
        {"COUNT": 3},
        [Export(name="it", value=c_tree.array("uint8_t", b"abc", "bytes"), comment="It.")],
    )
    assert "enum {\n    COUNT = 3\n};" in text
    assert "/* It. */\nextern const uint8_t it[3];" in text
    assert text.startswith("/* Made here. */\n#ifndef POINTS_H\n#define POINTS_H\n")


def test_a_networks_name_cannot_end_the_comment():
    network = zoo.load("watch-cnn").network
    files = generate(replace(network, name="*/ int evil; /*"))
    assert "evil" in files["sanderling_model.c"].splitlines()[0]
    assert files["sanderling_model.c"].splitlines()[0].count("*/") == 1


def networks():
    yield zoo.load("watch-cnn").network, None
    yield zoo.load("fashion-ds-cnn").network, None
    yield from list(hard_cases())[::7]
    yield from random_cases(None, 3, first_seed=3000)


@pytest.mark.slow
def test_generated_files_compile_and_give_the_same_bytes(runtime, tmp_path):
    cffi = pytest.importorskip("cffi")
    compiler = shutil.which("cc")
    include = native.RUNTIME / "include"
    objects = [
        file for file in native.sources() if file.stem in ("arithmetic", "network") or "kernels" in file.stem
    ]
    common = [compiler, *native.WARNINGS, "-O1", "-fPIC", "-I", str(include), "-I", "."]
    subprocess.run([*common, "-c", *map(str, objects)], check=True, cwd=tmp_path)
    for number, (network, inputs) in enumerate(networks()):
        if inputs is None:
            shape = network.tensors[network.inputs[0]].shape[1:]
            inputs = np.random.default_rng(1).integers(-128, 128, (2, *shape)).astype(np.int8)
        for name, text in generate(network).items():
            (tmp_path / name).write_text(text)
        library = f"model{number}.so"
        built = [f"{file.stem}.o" for file in objects]
        subprocess.run(
            [*common, "-shared", "sanderling_model.c", *built, "-o", library], check=True, cwd=tmp_path
        )
        ffi = cffi.FFI()
        ffi.cdef(declarations(native.headers()))
        ffi.cdef("extern sl_network sl_model; extern const uint8_t sl_model_hash[32];")
        lib = ffi.dlopen(str(tmp_path / library))
        assert bytes(lib.sl_model_hash) == network.content_hash
        lowered = lower(network)
        (place,) = lowered.outputs
        (expected,) = NativeNetwork(runtime, network).run(inputs)
        arena = ffi.new("int32_t[]", lib.sl_model.arena_bytes // 4 + 1)
        memory = ffi.buffer(arena)
        for values, wanted in zip(inputs, expected, strict=True):
            memory[lib.sl_model.input : lib.sl_model.input + values.nbytes] = values.tobytes()
            lib.sl_run(ffi.addressof(lib.sl_model), 0, lib.sl_model.node_count, ffi.cast("int8_t *", arena))
            assert memory[lib.sl_model.output : lib.sl_model.output + wanted.nbytes] == wanted.tobytes()
        assert place.offset == lib.sl_model.output
