"""What a node's self-test has to give: the hash of a few inferences and a round of training on drawn numbers.

runtime/src/self_test.c does the same on the board at each start; a node whose hash differs does not join.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sanderling.broker import codec
from sanderling.models import inference
from sanderling.models.compression import compress, shared_mask
from sanderling.models.network import Network
from sanderling.models.random_bits import derive_key, random_words
from sanderling.models.tail import DenseHead
from sanderling.models.training import LocalTraining, train_head

EXAMPLES: Final = 6  # SL_SELF_TEST_EXAMPLES
COORDINATES: Final = 32
CLIPPING_NORM: Final = 4000
SCALE_SHIFT: Final = 5
FEDERATION: Final = "self-test"
DEVICE: Final = "node"
SEED: Final = 1
ROUND: Final = 1
TRAINING: Final = LocalTraining(epochs=2, batch_size=4, learning_rate_q16=3277, proximal_mu_q16=655)


def digest(network: Network, head: DenseHead) -> bytes:
    """BLAKE2b-256 over the features of the drawn inputs and the encoded update. 32 bytes."""
    tensor = network.tensors[network.inputs[0]]
    inputs = np.stack([_drawn(stream, int(np.prod(tensor.shape))) for stream in range(EXAMPLES)])
    features = inference.features(network, inputs.reshape(EXAMPLES, *tensor.shape[1:]), head.layer)
    labels = np.arange(EXAMPLES, dtype=np.int64) % head.classes
    start = 16 * _drawn(EXAMPLES, head.dimension).astype(np.int32)
    trained = train_head(head, start, features, labels, TRAINING, _key("train"))
    count = min(COORDINATES, head.dimension)
    coordinates = shared_mask(FEDERATION, ROUND, head.dimension, count)
    update = compress(trained - start, coordinates, CLIPPING_NORM, SCALE_SHIFT, _key("quantize"))
    payload = codec.encode(update, shared_coordinates=True)
    return hashlib.blake2b(features.tobytes() + payload, digest_size=32).digest()


def _key(purpose: str) -> tuple[int, int]:
    return derive_key(purpose, FEDERATION, SEED, ROUND, DEVICE)


def _drawn(stream: int, count: int) -> NDArray[np.int8]:
    """Bytes of the stream's words, the lowest first."""
    words = random_words(derive_key("golden"), -(-count // 4), stream=stream)
    return words.astype("<u4").view(np.int8)[:count]
