/* What inference and training take: instructions, between marks for benchmarks/firmware.py to count, and stack.

   Between marks lie in turn: nothing; an inference; the order of an epoch; EXAMPLES steps of one example; twice as many; one
   step of a batch of EXAMPLES; two. The log says the stack of an inference and of training, below this function. */
#include <string.h>

#include "board.h"
#include "sanderling/head.h"
#include "sanderling_model.h"

enum { EXAMPLES = 16, RATE_Q16 = 3277 };

static int64_t arena[SL_MODEL_ARENA_BYTES / 8 + 1];
static int8_t rows[EXAMPLES * SL_MODEL_FEATURES];
static uint16_t labels[EXAMPLES], order[EXAMPLES];
static int16_t start[SL_MODEL_DIMENSION], theta[SL_MODEL_DIMENSION];
static uint32_t scratch[EXAMPLES * SL_MODEL_CLASSES + 2 * SL_MODEL_FEATURES + EXAMPLES + 64];

static void train(uint16_t batch_size, uint16_t epochs)
{
    const sl_training training = {.epochs = epochs, .batch_size = batch_size, .learning_rate_q16 = RATE_Q16};
    const sl_examples examples = {.rows = rows, .labels = labels, .count = EXAMPLES};
    const sl_key key = {1, 2};
    if (sl_head_scratch_bytes(sl_flashed.head, batch_size, EXAMPLES) > sizeof scratch ||
        sl_head_train(sl_flashed.head, &training, key, &examples, start, theta, scratch) != SL_OK) {
        board_exit(1);
    }
    board_mark();
}

static void infer(void)
{
    sl_run(&sl_model, 0, sl_model.node_count, (int8_t *)arena);
    board_mark();
}

static void put_number(char **at, uint32_t number)
{
    if (number >= 10) {
        put_number(at, number / 10);
    }
    *(*at)++ = (char)('0' + number % 10);
}

int application(void)
{
    const sl_port *port = board_start();
    const sl_key key = {1, 2};
    char line[64] = "stack ", *at = line + strlen(line);
    for (uint32_t i = 0; i < sl_model.input_size; i++) {
        ((int8_t *)arena)[sl_model.input + i] = (int8_t)(i * 37);
    }
    for (uint32_t i = 0; i < sizeof rows; i++) {
        rows[i] = (int8_t)(i * 29);
    }
    for (uint32_t i = 0; i < EXAMPLES; i++) {
        labels[i] = (uint16_t)(i % SL_MODEL_CLASSES);
    }
    board_mark();
    board_mark();
    board_paint_stack();
    uint32_t outside = board_stack_used();
    board_mark();
    infer();
    uint32_t inference = board_stack_used() - outside;
    board_mark();
    sl_permutation(key, 0, order, EXAMPLES);
    board_mark();
    train(1, 1);
    train(1, 2);
    train(EXAMPLES, 1);
    train(EXAMPLES, 2);
    put_number(&at, inference);
    *at++ = ' ';
    put_number(&at, board_stack_used() - outside);
    *at = 0;
    port->log(port->context, line);
    return 0;
}
