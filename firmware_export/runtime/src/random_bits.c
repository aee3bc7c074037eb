#include "sanderling/random_bits.h"

#include <string.h>

#include "bytes.h"
#include "monocypher.h"

enum { KEY_BYTES = 8, LENGTH_BYTES = 2, PARITY = 0x1BD11BDA };

/* Room for Monocypher's state: a negative size stops the compiler. */
typedef char state_fits[sizeof(crypto_blake2b_ctx) <= sizeof(sl_key_builder) ? 1 : -1];

static void append(sl_key_builder *builder, const void *part, size_t size)
{
    uint8_t length[LENGTH_BYTES] = {(uint8_t)(size & 0xFF), (uint8_t)(size >> 8)};
    crypto_blake2b_update((crypto_blake2b_ctx *)(void *)builder, length, sizeof length);
    crypto_blake2b_update((crypto_blake2b_ctx *)(void *)builder, part, size);
}

void sl_key_begin(sl_key_builder *builder, const char *purpose)
{
    crypto_blake2b_init((crypto_blake2b_ctx *)(void *)builder, KEY_BYTES);
    sl_key_text(builder, purpose);
}

void sl_key_text(sl_key_builder *builder, const char *text)
{
    append(builder, text, strlen(text));
}

void sl_key_integer(sl_key_builder *builder, uint64_t integer)
{
    uint8_t bytes[8];
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(integer >> (8 * i));
    }
    append(builder, bytes, sizeof bytes);
}

sl_key sl_key_end(sl_key_builder *builder)
{
    uint8_t digest[KEY_BYTES];
    crypto_blake2b_final((crypto_blake2b_ctx *)(void *)builder, digest);
    return (sl_key){sl_get_u32(digest), sl_get_u32(digest + 4)};
}

static uint32_t rotate(uint32_t x, uint32_t by)
{
    return x << by | x >> (32 - by);
}

void sl_random_block(sl_key key, uint32_t c0, uint32_t c1, uint32_t words[2])
{
    static const uint8_t rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    uint32_t schedule[3] = {key.k0, key.k1, key.k0 ^ key.k1 ^ PARITY};
    uint32_t x0 = c0 + key.k0, x1 = c1 + key.k1;
    for (uint32_t block = 0; block < 5; block++) {
        const uint8_t *by = rotations + 4 * (block % 2);
        for (uint32_t i = 0; i < 4; i++) {
            x0 += x1;
            x1 = rotate(x1, by[i]) ^ x0;
        }
        /* The schedule turns by one place a block. */
        uint32_t first = schedule[0];
        schedule[0] = schedule[1];
        schedule[1] = schedule[2];
        schedule[2] = first;
        x0 += schedule[0];
        x1 += schedule[1] + block + 1;
    }
    words[0] = x0;
    words[1] = x1;
}

uint32_t sl_random_word(sl_key key, uint32_t stream, uint32_t index)
{
    uint32_t words[2];
    sl_random_block(key, index / 2, stream, words);
    return words[index % 2];
}

uint32_t sl_below(uint32_t word, uint32_t bound)
{
    return (uint32_t)(((uint64_t)word * bound) >> 32);
}

void sl_permutation(sl_key key, uint32_t stream, uint16_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        order[i] = (uint16_t)i;
    }
    uint32_t words[2] = {0, 0};
    for (uint32_t i = count; i-- > 1;) {
        if (i % 2 == 1 || i + 1 == count) { /* a block serves two places */
            sl_random_block(key, i / 2, stream, words);
        }
        uint32_t j = sl_below(words[i % 2], i + 1);
        uint16_t moved = order[i];
        order[i] = order[j];
        order[j] = moved;
    }
}
