/* The same bytes everywhere: hashes of inferences on random inputs, of training, of encoded updates, for a test to compare.

   Options: inputs=N inferences; epochs=N of training on EXAMPLES random examples, 4 steps an epoch. Each prints a line
   "inference N HASH", "training EPOCHS HASH", "update MODE HASH". Inputs, rows and labels are drawn from Threefry with keys of their
   own, so that nobody has to send them. */
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "sanderling_model.h"
#include "monocypher.h"
#include "sanderling/trainer.h"

enum { EXAMPLES = 64, BATCH = 16, RATE_Q16 = 3277, MU_Q16 = 655, SEED = 7, ROUND = 3, HASH_BYTES = 32 };

static int8_t arena[SL_MODEL_ARENA_BYTES] __attribute__((aligned(16)));
static const sl_port *port;

static sl_key key_of(const char *purpose)
{
    sl_key_builder builder;
    sl_key_begin(&builder, purpose);
    return sl_key_end(&builder);
}

/* Bytes of a stream, four a word, the lowest first. */
static void draw(sl_key key, uint32_t stream, int8_t *bytes, uint32_t count)
{
    uint32_t word = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i % 4 == 0) {
            word = sl_random_word(key, stream, i / 4);
        }
        bytes[i] = (int8_t)(uint8_t)(word >> (8 * (i % 4)));
    }
}

static uint32_t option(const char *name, uint32_t otherwise)
{
    const char *text = board_option(name);
    return text != NULL ? (uint32_t)atoi(text) : otherwise;
}

static char *put_text(char *at, const char *text)
{
    size_t length = strlen(text);
    memcpy(at, text, length);
    return at + length;
}

static char *put_number(char *at, uint32_t number)
{
    if (number >= 10) {
        at = put_number(at, number / 10);
    }
    *at = (char)('0' + number % 10);
    return at + 1;
}

static void report(const char *what, const char *mode, uint32_t count, const uint8_t *hash)
{
    char line[128], *at = put_text(line, what);
    at = put_text(at, " ");
    at = mode != NULL ? put_text(at, mode) : put_number(at, count);
    *at++ = ' ';
    for (uint32_t i = 0; i < HASH_BYTES; i++) {
        *at++ = "0123456789abcdef"[hash[i] >> 4];
        *at++ = "0123456789abcdef"[hash[i] & 15];
    }
    *at = 0;
    port->log(port->context, line);
}

static void infer(uint32_t inputs)
{
    const sl_network *network = sl_flashed.network;
    crypto_blake2b_ctx digest;
    uint8_t hash[HASH_BYTES];
    crypto_blake2b_init(&digest, HASH_BYTES);
    for (uint32_t i = 0; i < inputs; i++) {
        draw(key_of("self-test inputs"), i, arena + network->input, network->input_size);
        sl_run(network, 0, network->node_count, arena);
        crypto_blake2b_update(&digest, (const uint8_t *)arena + network->output, network->output_size);
    }
    crypto_blake2b_final(&digest, hash);
    report("inference", NULL, inputs, hash);
}

static int8_t rows[EXAMPLES * SL_MODEL_FEATURES];
static uint16_t labels[EXAMPLES];
static int16_t start[SL_MODEL_DIMENSION], theta[SL_MODEL_DIMENSION];
static int32_t left_over[SL_MODEL_DIMENSION];
static uint32_t scratch[3 * SL_MODEL_DIMENSION + 32 * SL_MODEL_CLASSES + 1024];
static uint8_t payload[2 * SL_MODEL_DIMENSION + 64];

static void learn(uint32_t epochs)
{
    const sl_head *head = sl_flashed.head;
    const sl_examples examples = {.rows = rows, .labels = labels, .count = EXAMPLES};
    sl_key key = key_of("self-test labels");
    draw(key_of("self-test rows"), 0, rows, sizeof rows);
    for (uint32_t i = 0; i < EXAMPLES; i++) {
        labels[i] = (uint16_t)sl_below(sl_random_word(key, 0, i), SL_MODEL_CLASSES);
    }
    for (uint32_t i = 0; i < SL_MODEL_DIMENSION; i++) {
        start[i] = (int16_t)(64 * (int8_t)(uint8_t)sl_random_word(key_of("self-test start"), 0, i));
    }
    const sl_training training = {
        .epochs = (uint16_t)epochs, .batch_size = BATCH, .learning_rate_q16 = RATE_Q16, .proximal_mu_q16 = MU_Q16};
    uint8_t hash[HASH_BYTES];
    if (sl_head_scratch_bytes(head, BATCH, EXAMPLES) > sizeof scratch ||
        sl_head_train(head, &training, key_of("self-test order"), &examples, start, theta, scratch) != SL_OK) {
        board_exit(1);
    }
    crypto_blake2b(hash, sizeof hash, (const uint8_t *)theta, sizeof theta);
    report("training", NULL, epochs, hash);
}

/* A round of one epoch from where training ended. */
static void update(uint8_t mode)
{
    sl_learner learner = sl_head_learner(sl_flashed.head);
    const sl_examples examples = {.rows = rows, .labels = labels, .count = EXAMPLES};
    const sl_examples validation = {.rows = rows, .labels = labels, .count = EXAMPLES / 4};
    const sl_task task = {
        .federation = "self-test",
        .device = "board",
        .seed = SEED,
        .round = ROUND,
        .training = {.epochs = 1, .batch_size = BATCH, .learning_rate_q16 = RATE_Q16},
        .rule = {.mode = mode,
                 .coordinates = (SL_MODEL_DIMENSION + 3) / 4,
                 .mask_epoch = 2,
                 .clipping_norm = 4000,
                 .scale_shift = 3},
    };
    sl_residual residual = {.vector = left_over};
    sl_training_report figures;
    uint32_t size;
    uint8_t hash[HASH_BYTES];
    sl_status status = sl_train(&learner, &task, theta, &examples, &validation, &residual, &residual, scratch,
                                sizeof scratch, payload, sizeof payload, &size, &figures);
    if (status != SL_OK) {
        port->log(port->context, sl_status_name(status));
        board_exit(2);
    }
    crypto_blake2b(hash, sizeof hash, payload, size);
    report("update", mode == 0 ? "mask" : "topk", 0, hash);
}

int application(void)
{
    port = board_start();
    infer(option("inputs", 8));
    uint32_t epochs = option("epochs", 1);
    if (epochs > 0) {
        learn(epochs);
        update(0);
        update(1);
    }
    return 0;
}
