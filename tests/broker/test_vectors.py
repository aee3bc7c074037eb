"""The golden vectors: still what the code makes, and read back as they were written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sanderling.broker import codec
from sanderling.broker import messages as m
from sanderling.broker.errors import CodecError, MessageError

FOLDER = Path(__file__).parents[1] / "vectors"
CODEC = json.loads((FOLDER / "codec.json").read_text())
MESSAGES = json.loads((FOLDER / "messages.json").read_text())
TYPES = {
    kind.NAME: kind
    for kind in (
        m.RoundPlan,
        m.ModelBody,
        m.ModelChunk,
        m.UpdateMessage,
        m.StatusMessage,
        m.EvaluationMessage,
    )
}


def test_the_generator_still_makes_these_vectors():
    generator = FOLDER.parent / "generate_vectors.py"
    checked = subprocess.run([sys.executable, generator, "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("case", CODEC["accepted"], ids=lambda case: case["name"])
def test_an_update_decodes_to_its_vector(case):
    coordinates = np.array(case["coordinates"], np.int32)
    for data, known in [(case["shared"], coordinates), (case["travelling"], None)]:
        update = codec.decode(bytes.fromhex(data), dimension=case["dimension"], coordinates=known)
        assert update.coordinates.tolist() == case["coordinates"]
        assert update.values.tolist() == case["values"]
        assert update.scale_shift == case["scale_shift"]


@pytest.mark.parametrize("case", CODEC["refused"], ids=lambda case: case["name"])
def test_a_refused_update_is_refused_with_its_reason(case):
    known = None if case["coordinates"] is None else np.array(case["coordinates"], np.int32)
    with pytest.raises(CodecError) as caught:
        codec.decode(bytes.fromhex(case["data"]), dimension=case["dimension"], coordinates=known)
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", MESSAGES["accepted"], ids=lambda case: case["type"])
def test_a_message_decodes_and_encodes_to_its_vector(case):
    data = bytes.fromhex(case["data"])
    message = TYPES[case["type"]].decode(data)
    assert message.encode() == data
    for name, value in case["fields"].items():
        if isinstance(value, (int, str)):
            field = getattr(message, name)
            assert (field.hex() if isinstance(field, bytes) else field) == value


@pytest.mark.parametrize("case", MESSAGES["refused"], ids=lambda case: case["name"])
def test_a_refused_message_is_refused_with_its_reason(case):
    with pytest.raises(MessageError) as caught:
        TYPES[case["type"]].decode(bytes.fromhex(case["data"]))
    assert caught.value.reason == case["reason"]
