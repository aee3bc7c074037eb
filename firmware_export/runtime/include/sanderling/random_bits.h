/* Random bits that everybody may know: Threefry-2x32 and what is drawn from it. docs/arithmetic.md, "Random bits". */
#ifndef SANDERLING_RANDOM_BITS_H
#define SANDERLING_RANDOM_BITS_H

#include "sanderling/base.h"

typedef struct {
    uint32_t k0, k1;
} sl_key;

/* A key in the making: BLAKE2b over a purpose and its parts. */
typedef struct {
    uint64_t state[28];
} sl_key_builder;

void sl_key_begin(sl_key_builder *builder, const char *purpose);
void sl_key_text(sl_key_builder *builder, const char *text);
void sl_key_integer(sl_key_builder *builder, uint64_t integer);
sl_key sl_key_end(sl_key_builder *builder);

/* The two words of the block with counter (c0, c1). */
void sl_random_block(sl_key key, uint32_t c0, uint32_t c1, uint32_t words[2]);

/* Word `index` of a stream. */
uint32_t sl_random_word(sl_key key, uint32_t stream, uint32_t index);

/* An integer in 0..bound-1 out of a random word. */
uint32_t sl_below(uint32_t word, uint32_t bound);

/* A shuffle of 0..count-1, count at most 65,536. */
void sl_permutation(sl_key key, uint32_t stream, uint16_t *order, uint32_t count);

#endif
