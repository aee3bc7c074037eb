/* An inference of BakeNN's generated code between two marks. */
#include "bknn_m.h"
#include "board.h"

static uint8_t arena[BKNN_M_ARENA_SIZE + 1] __attribute__((aligned(16)));
static int8_t input[BKNN_M_INPUT_BYTES], output[BKNN_M_OUTPUT_BYTES];

int application(void)
{
    board_start();
    for (uint32_t i = 0; i < sizeof input; i++) {
        input[i] = (int8_t)(i * 37);
    }
    board_mark();
    board_mark();
    bknn_m_infer(arena, input, output);
    board_mark();
    return 0;
}
