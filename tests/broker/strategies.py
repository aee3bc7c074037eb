"""Any message, for Hypothesis."""

import string

from hypothesis import strategies as st

from sanderling.broker import messages as m

names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)
short_texts = st.text(max_size=64)
u32 = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))
positive_16 = st.integers(1, 2**16 - 1)
hashes = st.binary(min_size=32, max_size=32)
correct_of = u32.flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))

model_references = st.builds(
    m.ModelReference,
    version=u32,
    model_hash=hashes,
    body_bytes=st.integers(0, m.MAX_THETA_BYTES + 64),
    network_hash=hashes,
    network_bytes=st.integers(0, m.MAX_NETWORK_BYTES),
)
round_plans = st.builds(
    m.RoundPlan,
    federation=names,
    run=names,
    round=u32,
    phase=st.sampled_from(["waiting", "round", "finished"]),
    cohort=st.lists(names, max_size=9).map(tuple),
    deadline_unix_s=st.none() | st.floats(0, 1e10),
    arithmetic=st.sampled_from(["exact", "fast"]),
    model=model_references,
    training=st.builds(
        m.TrainingPlan,
        epochs=positive_16,
        batch_size=positive_16,
        learning_rate_q16=u32,
        proximal_mu_q16=u32,
        seed=st.integers(0, 2**64 - 1),
    ),
    update=st.builds(
        m.UpdatePlan,
        mode=st.sampled_from(["mask", "topk"]),
        coordinates=st.integers(0, 2**20),
        mask_epoch=u32,
        clipping_norm=u32,
        scale_shift=st.integers(0, 16),
    ),
    evaluate=st.lists(model_references, max_size=m.MAX_EVALUATED_MODELS).map(tuple),
)
model_bodies = st.builds(
    m.ModelBody,
    version=u32,
    network_hash=hashes,
    theta=st.binary(min_size=1, max_size=300).map(lambda half: half + half),
)


chunks = st.integers(1, m.MAX_CHUNKS).flatmap(
    lambda count: st.builds(
        m.ModelChunk,
        index=st.integers(0, count - 1),
        count=st.just(count),
        piece=st.binary(min_size=1, max_size=300),
        check=st.binary(min_size=8, max_size=8),
    )
)


@st.composite
def _updates(draw):
    correct, count = draw(correct_of)
    return m.UpdateMessage(
        run=draw(names),
        round=draw(u32),
        model_hash_prefix=draw(st.binary(min_size=8, max_size=8)),
        num_examples=draw(st.integers(1, 2**32 - 1)),
        training_loss_milli=draw(u32),
        validation_correct=correct,
        validation_count=count,
        validation_loss_milli=draw(u32),
        duration_ms=draw(u32),
        payload=draw(st.binary(max_size=500)),
    )


updates = _updates()
statuses = st.builds(
    m.StatusMessage,
    state=st.sampled_from(["online", "offline"]),
    num_examples=u32,
    boot=st.binary(min_size=8, max_size=8),
    backend=short_texts,
    software=short_texts,
    arithmetic_drift_lsb=st.none() | st.integers(0, 2**16 - 1),
    detail=st.text(max_size=m.MAX_DETAIL_CHARACTERS),
    receive_buffer_bytes=st.none() | u32,
)
evaluations = st.builds(
    m.EvaluationMessage,
    run=names,
    results=st.lists(
        st.builds(
            lambda model_hash, of, loss: m.EvaluationResult(model_hash, *of, loss), hashes, correct_of, u32
        ),
        max_size=m.MAX_EVALUATED_MODELS,
    ).map(tuple),
)

by_rule = {
    "round-plan": round_plans,
    "model-body": model_bodies,
    "model-chunk": chunks,
    "update": updates,
    "status": statuses,
    "evaluation": evaluations,
}
