#include "sanderling/self_test.h"

#include <string.h>

#include "monocypher.h"
#include "sanderling/random_bits.h"
#include "sanderling/trainer.h"

enum { EPOCHS = 2, BATCH_SIZE = 4, COORDINATES = 32, HASH_BYTES = 32 };

static const char FEDERATION[] = "self-test", DEVICE[] = "node";

static sl_key key(void)
{
    sl_key_builder builder;
    sl_key_begin(&builder, "golden");
    return sl_key_end(&builder);
}

static sl_task task(uint32_t dimension)
{
    sl_task made = {
        .federation = FEDERATION,
        .device = DEVICE,
        .seed = 1,
        .round = 1,
        .training = {.epochs = EPOCHS, .batch_size = BATCH_SIZE, .learning_rate_q16 = 3277, .proximal_mu_q16 = 655},
        .rule = {.mode = 0,
                 .coordinates = dimension < COORDINATES ? dimension : COORDINATES,
                 .mask_epoch = 1,
                 .clipping_norm = 4000,
                 .scale_shift = 5},
    };
    return made;
}

/* Byte i of a stream, as int8. */
static int8_t drawn(sl_key from, uint32_t stream, uint32_t i)
{
    return (int8_t)(uint8_t)(sl_random_word(from, stream, i >> 2) >> (8 * (i & 3)));
}

uint32_t sl_self_test_scratch_bytes(const sl_flashed_model *model)
{
    sl_learner learner = sl_head_learner(model->head);
    sl_task asked = task(learner.dimension);
    return sl_train_scratch_bytes(&learner, &asked, SL_SELF_TEST_EXAMPLES);
}

static void infer(const sl_flashed_model *model, const sl_self_test_memory *memory, sl_key from)
{
    const sl_network *network = model->network;
    uint32_t features = model->head->features;
    for (uint32_t example = 0; example < SL_SELF_TEST_EXAMPLES; example++) {
        for (uint32_t i = 0; i < network->input_size; i++) {
            memory->arena[network->input + i] = drawn(from, example, i);
        }
        sl_run(network, 0, model->head_node, memory->arena);
        memcpy(memory->rows + example * features, memory->arena + model->features, features);
    }
}

sl_status sl_self_test_hash(const sl_flashed_model *model, const sl_self_test_memory *memory, uint8_t *hash)
{
    sl_learner learner = sl_head_learner(model->head);
    sl_task asked = task(learner.dimension);
    sl_key from = key();
    uint16_t labels[SL_SELF_TEST_EXAMPLES];
    if (memory->scratch_bytes < sl_self_test_scratch_bytes(model)) {
        return SL_NO_SPACE;
    }
    infer(model, memory, from);
    for (uint32_t example = 0; example < SL_SELF_TEST_EXAMPLES; example++) {
        labels[example] = (uint16_t)(example % model->head->classes);
    }
    for (uint32_t i = 0; i < learner.dimension; i++) {
        memory->start[i] = (int16_t)(16 * drawn(from, SL_SELF_TEST_EXAMPLES, i));
    }
    sl_examples examples = {memory->rows, labels, SL_SELF_TEST_EXAMPLES}, none = {memory->rows, labels, 0};
    uint8_t payload[SL_SELF_TEST_PAYLOAD_BYTES];
    uint32_t size;
    sl_training_report report;
    sl_status status = sl_train(&learner, &asked, memory->start, &examples, &none, NULL, NULL, memory->scratch,
                                memory->scratch_bytes, payload, sizeof payload, &size, &report);
    if (status != SL_OK) {
        return status;
    }
    crypto_blake2b_ctx digest;
    crypto_blake2b_init(&digest, HASH_BYTES);
    crypto_blake2b_update(&digest, (const uint8_t *)memory->rows, SL_SELF_TEST_EXAMPLES * model->head->features);
    crypto_blake2b_update(&digest, payload, size);
    crypto_blake2b_final(&digest, hash);
    return SL_OK;
}

sl_status sl_self_test(const sl_flashed_model *model, const sl_self_test_memory *memory)
{
    uint8_t hash[HASH_BYTES];
    sl_status status = sl_self_test_hash(model, memory, hash);
    return status == SL_OK && memcmp(hash, model->golden, HASH_BYTES) != 0 ? SL_ARITHMETIC_DIFFERS : status;
}
