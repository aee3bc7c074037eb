/* Chunks that are anything, chunks with a good check among them, and losses of power. */
#include "firmware_input.h"
#include "monocypher.h"
#include "sanderling/download.h"

enum { CAPACITY = 256, PIECE = 224, THETA = 3 * PIECE + 50, STEPS = 60 };

static uint8_t stored[THETA];

static sl_status read_stored(void *context, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    LAW(offset <= THETA && size <= THETA - offset && size <= PIECE);
    memcpy(bytes, stored + offset, size);
    return *(uint8_t *)context == offset % 255 ? SL_STORAGE_FAILED : SL_OK;
}

static void check(const sl_download *download)
{
    LAW(download->next <= download->count && download->count == 4);
    LAW(download->received <= CAPACITY);
}

static void feed(sl_download *download, const uint8_t *message, uint32_t size, uint32_t piece)
{
    sl_status status = SL_PENDING;
    bool held = download->piece != NULL;
    for (uint32_t place = 0; place < size && status == SL_PENDING; place += piece) {
        uint32_t part = size - place < piece ? size - place : piece;
        status = sl_download_feed(download, size, place, message + place, part);
        check(download);
    }
    LAW((status == SL_OK || held) == (download->piece != NULL) && !(held && status == SL_OK));
    if (status == SL_OK) {
        LAW(download->piece_offset + download->piece_size <= THETA);
        LAW(download->piece >= download->buffer && download->piece + download->piece_size <= download->buffer + CAPACITY);
        memcpy(stored + download->piece_offset, download->piece, download->piece_size);
    }
}

/* What the coordinator would send, of bytes that the fuzzer chose: the check is good, the model's hash in the end is not. */
static void feed_good_chunk(sl_download *download, input *in, uint8_t choice)
{
    uint8_t message[300], numbers[8] = {0}, digest[32], *block;
    uint32_t size;
    numbers[0] = (uint8_t)(choice & 64 ? take_choice(in) : download->next);
    numbers[4] = (uint8_t)(choice & 128 ? take_choice(in) : download->count);
    block = take_block(in, numbers[0] == 3 ? 50 : PIECE, &size);
    crypto_blake2b_ctx context;
    crypto_blake2b_init(&context, 32);
    crypto_blake2b_update(&context, (const uint8_t *)"sanderling chunk 1", 18);
    crypto_blake2b_update(&context, download->reference.model_hash, 32);
    crypto_blake2b_update(&context, numbers, 8);
    crypto_blake2b_update(&context, block, size);
    crypto_blake2b_final(&context, digest);
    sl_cbor_writer writer = {message, sizeof message, 0};
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 5);
    sl_cbor_put(&writer, SL_CBOR_UINT, 1);
    sl_cbor_put(&writer, SL_CBOR_UINT, numbers[0]);
    sl_cbor_put(&writer, SL_CBOR_UINT, numbers[4]);
    sl_cbor_put_bytes(&writer, block, size);
    sl_cbor_put_bytes(&writer, digest, 8);
    free(block);
    feed(download, message, writer.size, 1 + (choice >> 3));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, (uint32_t)size};
    uint8_t network[32] = {1}, *buffer = malloc(CAPACITY), *block, broken;
    uint32_t part;
    sl_model_reference reference = {.version = 7, .model_hash = {2}, .network_hash = {1}};
    sl_download download;
    reference.body_bytes = 3 + 34 + 3 + THETA;
    LAW(sl_download_begin(&download, &reference, network, THETA, 7, buffer, CAPACITY) == SL_OK);
    for (uint32_t step = 0; in.size > 0 && step < STEPS; step++) {
        uint8_t choice = take_choice(&in);
        switch (choice & 3) {
        case 0:
            block = take_block(&in, take_choice(&in) + (choice & 64u), &part);
            feed(&download, block, part, 1 + (choice >> 3));
            free(block);
            break;
        case 1:
            part = download.next;
            sl_status status = sl_download_stored(&download);
            LAW(status == SL_PENDING || status == SL_WRONG_MODEL || status == SL_OUT_OF_ORDER);
            LAW(download.next == (status == SL_PENDING ? part + 1 : status == SL_WRONG_MODEL ? 0 : part));
            break;
        case 2:
            broken = choice & 16 ? take_choice(&in) : 255;
            sl_download_resume(&download, choice & 8 ? take_choice(&in) : download.next, read_stored, &broken);
            break;
        default:
            feed_good_chunk(&download, &in, choice);
        }
        check(&download);
    }
    free(buffer);
    return 0;
}
