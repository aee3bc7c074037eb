"""A whole round in C: payload, counts and residual of edge_runtime.trainer.train."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.messages import ModelReference, RoundPlan, TrainingPlan, UpdatePlan
from sanderling.edge_runtime import trainer
from sanderling.edge_runtime.trainer import Examples, LocalData, Residual
from sanderling.models.compression import shared_mask
from sanderling.models.native import Memory
from sanderling.models.tail_lowering import head_struct
from tests.models.tails import blobs, make_head

OK, UNSUPPORTED, BAD_SAMPLE, NO_SPACE = 0, -9, -11, -17
REFERENCE = ModelReference(
    version=1, model_hash=bytes(32), body_bytes=100, network_hash=bytes(32), network_bytes=100
)


def plan_of(update, *, training=None, seed=(1 << 63) + 5, round_number=3):
    return RoundPlan(
        federation="watch",
        run="run-a",
        round=round_number,
        phase="round",
        cohort=("mcu-01",),
        deadline_unix_s=None,
        arithmetic="exact",
        model=REFERENCE,
        training=training
        or TrainingPlan(epochs=2, batch_size=8, learning_rate_q16=3277, proximal_mu_q16=0, seed=seed),
        update=update,
        evaluate=(),
    )


def local_data(head, train, validation, seed=1):
    rng = np.random.default_rng(seed)
    parts = [blobs(rng, head, count) for count in (train, validation, 0)]
    return LocalData(
        **{
            name: Examples(features=features, labels=labels)
            for name, (features, labels) in zip(("train", "validation", "test"), parts, strict=True)
        }
    )


class NativeTrainer:
    """`sl_train` with memory of just the size it asks for."""

    def __init__(self, runtime, head, plan, device="mcu-01"):
        self.ffi, self.lib = runtime.ffi, runtime.lib
        self.table = Memory(runtime).pointer(head_struct(head))
        self.learner = self.ffi.new("sl_learner *", self.lib.sl_head_learner(self.table))
        self.names = [self.ffi.new("char[]", text.encode()) for text in (plan.federation, device)]
        training, update = plan.training, plan.update
        self.task = self.ffi.new(
            "sl_task *",
            {
                "federation": self.names[0],
                "device": self.names[1],
                "seed": training.seed,
                "round": plan.round,
                "training": {
                    name: getattr(training, name)
                    for name in ("epochs", "batch_size", "learning_rate_q16", "proximal_mu_q16")
                },
                "rule": {
                    "mode": ["mask", "topk"].index(update.mode),
                    "coordinates": update.coordinates,
                    "mask_epoch": update.mask_epoch,
                    "clipping_norm": update.clipping_norm,
                    "scale_shift": update.scale_shift,
                },
            },
        )
        self.kept = []

    def examples(self, part):
        rows = self.ffi.new("int8_t[]", part.features.tobytes() or b"\0")
        labels = self.ffi.new("uint16_t[]", part.labels.tolist() or [0])
        self.kept += [rows, labels]
        return self.ffi.new("sl_examples *", {"rows": rows, "labels": labels, "count": part.labels.size})

    def residual(self, dimension, kept):
        vector = self.ffi.new("int32_t[]", dimension if kept is None else kept.vector.tolist())
        self.kept.append(vector)
        epoch, present = (0, False) if kept is None else (kept.mask_epoch, True)
        fields = {"mask_epoch": epoch, "present": present, "vector": vector}
        return self.ffi.new("sl_residual *", fields)

    def train(self, theta, data, residual, *, scratch=None, capacity=100_000):
        size, report = self.ffi.new("uint32_t *"), self.ffi.new("sl_training_report *")
        before, after = self.residual(theta.size, residual), self.residual(theta.size, None)
        needed = self.lib.sl_train_scratch_bytes(self.learner, self.task, data.train.labels.size)
        room = self.ffi.new("uint8_t[]", needed + 8)
        self.ffi.memmove(room + needed, b"\xa5" * 8, 8)
        payload = self.ffi.new("uint8_t[]", capacity)
        status = self.lib.sl_train(
            self.learner,
            self.task,
            self.ffi.new("int16_t[]", theta.tolist()),
            self.examples(data.train),
            self.examples(data.validation),
            before,
            after,
            room,
            needed if scratch is None else scratch,
            payload,
            capacity,
            size,
            report,
        )
        assert bytes(self.ffi.buffer(room + needed, 8)) == b"\xa5" * 8
        left = Residual(
            mask_epoch=after.mask_epoch, vector=np.array(list(after.vector[0 : theta.size]), np.int32)
        )
        return (
            status,
            bytes(self.ffi.buffer(payload, min(size[0], capacity))),
            report,
            left if after.present else None,
        )


def compare(runtime, head, plan, theta, data, residual=None):
    """The C runtime's residual, once all else agrees."""
    expected, left = trainer.train(plan, "mcu-01", head, theta, data, residual, lambda: 0.0)
    native = NativeTrainer(runtime, head, plan)
    status, payload, report, kept = native.train(theta, data, residual)
    assert status == OK
    assert payload == expected.payload
    assert report.num_examples == expected.num_examples
    assert (report.validation_correct, report.validation_count) == (
        expected.validation_correct,
        expected.validation_count,
    )
    for name in ("training_loss_milli", "validation_loss_milli"):
        assert getattr(report, name) == pytest.approx(getattr(expected, name), abs=2, rel=1e-4)
    assert (kept is None) == (left is None)
    if left is not None:
        assert kept.mask_epoch == left.mask_epoch
        assert kept.vector.tolist() == left.vector.tolist()
    return left


@st.composite
def updates(draw, dimension):
    mode = draw(st.sampled_from(["mask", "topk"]))
    return UpdatePlan(
        mode=mode,
        coordinates=draw(st.integers(1, dimension)),
        mask_epoch=draw(st.integers(0, 3)),
        clipping_norm=draw(st.sampled_from([0, 1, 900, 40_000])),
        scale_shift=draw(st.sampled_from([0, 3, 7, 16])),
    )


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_rounds_are_the_references(runtime, data):
    head = make_head(data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5)))
    examples = local_data(head, data.draw(st.integers(0, 20)), data.draw(st.integers(0, 9)))
    theta = np.random.default_rng(4).integers(-3000, 3000, head.dimension).astype(np.int32)
    compare(runtime, head, plan_of(data.draw(updates(head.dimension))), theta, examples)


def test_top_k_feeds_back_over_rounds(runtime):
    """Four rounds with one residual, the last under a new mask epoch, which begins without."""
    head = make_head(9, 4)
    examples, theta, residual = local_data(head, 30, 10), np.zeros(head.dimension, np.int32), None
    update = UpdatePlan(mode="topk", coordinates=6, mask_epoch=1, clipping_norm=500, scale_shift=3)
    for number, epoch in enumerate([1, 1, 1, 2]):
        plan = plan_of(replace(update, mask_epoch=epoch), round_number=number)
        residual = compare(runtime, head, plan, theta, examples, residual)
        assert residual.vector.any()


class TestRefusals:
    HEAD = make_head(5, 3)
    UPDATE = UpdatePlan(mode="mask", coordinates=4, mask_epoch=0, clipping_norm=0, scale_shift=3)

    def refused(self, runtime, update=UPDATE, labels=None, **given):
        data = local_data(self.HEAD, 8, 3)
        if labels is not None:
            data = replace(data, validation=replace(data.validation, labels=np.array(labels)))
        native = NativeTrainer(runtime, self.HEAD, plan_of(update))
        return native.train(np.zeros(18, np.int32), data, None, **given)[0]

    def test_mask_of_another_dimension(self, runtime):
        assert self.refused(runtime, replace(self.UPDATE, coordinates=0)) == UNSUPPORTED
        assert self.refused(runtime, replace(self.UPDATE, coordinates=19)) == UNSUPPORTED

    def test_too_little_scratch_or_room_for_the_payload(self, runtime):
        assert self.refused(runtime, scratch=60) == NO_SPACE
        assert self.refused(runtime, capacity=3) == NO_SPACE

    def test_validation_label_that_is_no_class(self, runtime):
        assert self.refused(runtime, labels=[0, 1, 3]) == BAD_SAMPLE


def test_a_blinding_writes_the_payload_in_the_codecs_place(runtime):
    head = make_head(9, 4)
    examples, theta = local_data(head, 30, 10), np.zeros(head.dimension, np.int32)
    plan = plan_of(UpdatePlan(mode="mask", coordinates=11, mask_epoch=1, clipping_norm=900, scale_shift=3))
    seen = []

    @runtime.ffi.callback("sl_status(void *, const sl_quantized_update *, uint8_t *, uint32_t, uint32_t *)")
    def write(_context, update, payload, capacity, size):
        assert capacity == 100_000
        seen.append(list(update.values[0 : update.count]))
        payload[0:7] = b"blinded"
        size[0] = 7
        return OK

    native = NativeTrainer(runtime, head, plan)
    blinding = runtime.ffi.new("sl_blinding *", {"write": write})
    native.task.blinding = blinding
    assert native.train(theta, examples, None)[:2] == (OK, b"blinded")
    payload = trainer.train(plan, "mcu-01", head, theta, examples, None, lambda: 0.0)[0].payload
    coordinates = shared_mask("watch", 1, head.dimension, 11)
    update = codec.decode(payload, coordinates=coordinates, dimension=head.dimension)
    assert seen == [update.values.tolist()]
