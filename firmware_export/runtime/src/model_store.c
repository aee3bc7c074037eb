#include "sanderling/model_store.h"

#include <string.h>

#include "bytes.h"
#include "sanderling/storage.h"

enum { MAGIC = 0x324D5253, HEADER_BYTES = 56, MARK_BYTES = 8, NONE = 2, WHOLE = 0x454C4857, PART_BYTES = 64 };
static const uint32_t BLANK = 0xFFFFFFFF;

static uint32_t padded(uint32_t size)
{
    return (size + 7) & ~7u;
}

static uint32_t piece_count(const sl_stored_model *model)
{
    return (model->size + model->piece_bytes - 1) / model->piece_bytes;
}

/* Where piece `index` has its mark; the piece lies behind it. */
static uint32_t place(const sl_stored_model *model, uint32_t index)
{
    return HEADER_BYTES + index * (MARK_BYTES + padded(model->piece_bytes));
}

/* Where the mark of a whole model lies. */
static uint32_t end(const sl_stored_model *model)
{
    uint32_t last = piece_count(model) - 1;
    return place(model, last) + MARK_BYTES + padded(model->size - last * model->piece_bytes);
}

static bool fits(const sl_stored_model *model, uint32_t area_bytes)
{
    return model->size > 0 && model->piece_bytes > 0 && model->size <= area_bytes && model->piece_bytes <= area_bytes &&
           piece_count(model) <= area_bytes / MARK_BYTES && end(model) <= area_bytes - MARK_BYTES;
}

/* The area that a coming model goes to. */
static uint32_t other(const sl_model_store *store)
{
    return store->good == 0 ? 1 : 0;
}

static sl_status read_area(const sl_model_store *store, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    return store->port->storage_read(store->port->context, store->first_area + area, offset, bytes, size);
}

static sl_status write_mark(const sl_model_store *store, uint32_t area, uint32_t offset, uint32_t value)
{
    uint8_t mark[MARK_BYTES];
    sl_put_u32(mark, value);
    sl_put_u32(mark + 4, value);
    return store->port->storage_write(store->port->context, store->first_area + area, offset, mark, MARK_BYTES);
}

/* Whether a mark is there and what it says; one that was torn is none. */
static bool read_mark(const sl_model_store *store, uint32_t area, uint32_t offset, uint32_t *value)
{
    uint8_t mark[MARK_BYTES];
    if (read_area(store, area, offset, mark, MARK_BYTES) != SL_OK) {
        return false;
    }
    *value = sl_get_u32(mark);
    return *value == sl_get_u32(mark + 4);
}

/* Of a header, all but where the CRC-32 itself lies. */
static uint32_t header_crc(const uint8_t *header)
{
    return sl_crc32(sl_crc32(0, header, 20), header + 24, HEADER_BYTES - 24);
}

static bool read_header(const sl_model_store *store, uint32_t area, sl_stored_model *model)
{
    uint8_t header[HEADER_BYTES];
    if (read_area(store, area, 0, header, HEADER_BYTES) != SL_OK || sl_get_u32(header) != MAGIC) {
        return false;
    }
    model->version = sl_get_u32(header + 4);
    model->size = sl_get_u32(header + 8);
    model->piece_bytes = sl_get_u32(header + 12);
    model->run = sl_get_u32(header + 16);
    memcpy(model->hash, header + 24, sizeof model->hash);
    return header_crc(header) == sl_get_u32(header + 20) && fits(model, store->port->area_bytes);
}

static sl_status write_header(const sl_model_store *store, uint32_t area, const sl_stored_model *model)
{
    uint8_t header[HEADER_BYTES];
    sl_put_u32(header, MAGIC);
    sl_put_u32(header + 4, model->version);
    sl_put_u32(header + 8, model->size);
    sl_put_u32(header + 12, model->piece_bytes);
    sl_put_u32(header + 16, model->run);
    memcpy(header + 24, model->hash, sizeof model->hash);
    sl_put_u32(header + 20, header_crc(header));
    return store->port->storage_write(store->port->context, store->first_area + area, 0, header, HEADER_BYTES);
}

static uint32_t piece_size(const sl_stored_model *model, uint32_t index)
{
    uint32_t rest = model->size - index * model->piece_bytes;
    return rest < model->piece_bytes ? rest : model->piece_bytes;
}

/* Whether piece `index` lies there undamaged. */
static bool intact(const sl_model_store *store, uint32_t area, const sl_stored_model *model, uint32_t index)
{
    uint32_t wanted, crc = 0, size = piece_size(model, index);
    uint8_t part[PART_BYTES];
    if (!read_mark(store, area, place(model, index), &wanted)) {
        return false;
    }
    for (uint32_t done = 0; done < size; done += PART_BYTES) {
        uint32_t take = size - done < PART_BYTES ? size - done : PART_BYTES;
        if (read_area(store, area, place(model, index) + MARK_BYTES + done, part, take) != SL_OK) {
            return false;
        }
        crc = sl_crc32(crc, part, take);
    }
    return crc == wanted;
}

/* How many pieces lie there undamaged, up to the first that does not. */
static uint32_t count_pieces(const sl_model_store *store, uint32_t area, const sl_stored_model *model)
{
    uint32_t index = 0;
    while (index < piece_count(model) && intact(store, area, model, index)) {
        index++;
    }
    return index;
}

/* Whether nothing was written where piece `index`, or behind the last one the mark, goes: what was torn needs an erasure
   first. */
static bool blank(const sl_model_store *store, uint32_t area, const sl_stored_model *model, uint32_t index)
{
    bool last = index == piece_count(model);
    uint32_t at = last ? end(model) : place(model, index);
    uint32_t stop = at + MARK_BYTES + (last ? 0 : padded(piece_size(model, index)));
    uint8_t part[MARK_BYTES];
    for (; at < stop; at += MARK_BYTES) {
        if (read_area(store, area, at, part, MARK_BYTES) != SL_OK || (sl_get_u32(part) & sl_get_u32(part + 4)) != BLANK) {
            return false;
        }
    }
    return true;
}

sl_status sl_model_store_open(sl_model_store *store, const sl_port *port, uint32_t first_area)
{
    memset(store, 0, sizeof *store);
    store->port = port;
    store->first_area = first_area;
    store->good = NONE;
    sl_stored_model found[2];
    bool whole[2];
    for (uint32_t area = 0; area < 2; area++) {
        uint32_t mark;
        bool here = read_header(store, area, &found[area]);
        found[area].size = here ? found[area].size : 0;
        whole[area] = here && read_mark(store, area, end(&found[area]), &mark) && mark == WHOLE &&
                      count_pieces(store, area, &found[area]) == piece_count(&found[area]);
        /* Two whole ones are there only where power was lost before the older was erased. */
        if (whole[area] && (store->good == NONE || found[area].version > store->model.version)) {
            store->good = area;
            store->model = found[area];
        }
    }
    uint32_t next = other(store);
    if (found[next].size > 0 && !whole[next]) {
        store->coming = found[next];
        store->pieces = count_pieces(store, next, &found[next]);
    }
    return SL_OK;
}

sl_status sl_model_store_begin(sl_model_store *store, const sl_stored_model *model)
{
    if (!fits(model, store->port->area_bytes)) {
        return SL_TOO_LARGE;
    }
    if (store->good != NONE && store->model.run == model->run && model->version < store->model.version) {
        return SL_WRONG_MODEL;
    }
    const sl_stored_model *coming = &store->coming;
    if (coming->size == model->size && coming->piece_bytes == model->piece_bytes &&
        memcmp(coming->hash, model->hash, sizeof model->hash) == 0 &&
        blank(store, other(store), model, store->pieces)) {
        store->coming.version = model->version;
        store->coming.run = model->run;
        return SL_OK;
    }
    sl_status status = sl_model_store_drop(store);
    if (status == SL_OK) {
        status = write_header(store, other(store), model);
    }
    if (status == SL_OK) {
        store->coming = *model;
    }
    return status;
}

sl_status sl_model_store_append(sl_model_store *store, const uint8_t *piece, uint32_t size)
{
    const sl_port *port = store->port;
    const sl_stored_model *model = &store->coming;
    if (model->size == 0 || store->pieces == piece_count(model) || size != piece_size(model, store->pieces)) {
        return SL_OUT_OF_ORDER;
    }
    uint32_t area = store->first_area + other(store), at = place(model, store->pieces);
    uint32_t full = size & ~7u;
    sl_status status = full == 0 ? SL_OK : port->storage_write(port->context, area, at + MARK_BYTES, piece, full);
    if (status == SL_OK && full < size) {
        uint8_t rest[8] = {0};
        memcpy(rest, piece + full, size - full);
        status = port->storage_write(port->context, area, at + MARK_BYTES + full, rest, sizeof rest);
    }
    if (status == SL_OK) {
        status = write_mark(store, other(store), at, sl_crc32(0, piece, size));
    }
    if (status == SL_OK) {
        store->pieces += 1;
    }
    return status;
}

static sl_status read_model(const sl_model_store *store, uint32_t area, const sl_stored_model *model, uint32_t offset,
                            uint8_t *bytes, uint32_t size)
{
    while (size > 0) {
        uint32_t index = offset / model->piece_bytes, inside = offset % model->piece_bytes;
        uint32_t rest = piece_size(model, index) - inside, take = size < rest ? size : rest;
        sl_status status = read_area(store, area, place(model, index) + MARK_BYTES + inside, bytes, take);
        if (status != SL_OK) {
            return status;
        }
        offset += take;
        bytes += take;
        size -= take;
    }
    return SL_OK;
}

sl_status sl_model_store_read_coming(const sl_model_store *store, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    uint32_t stored = store->pieces * store->coming.piece_bytes;
    stored = stored < store->coming.size ? stored : store->coming.size;
    if (offset > stored || size > stored - offset) {
        return SL_TOO_LARGE;
    }
    return read_model(store, other(store), &store->coming, offset, bytes, size);
}

sl_status sl_model_store_commit(sl_model_store *store)
{
    const sl_stored_model *model = &store->coming;
    if (model->size == 0 || store->pieces < piece_count(model)) {
        return SL_OUT_OF_ORDER;
    }
    sl_status status = write_mark(store, other(store), end(model), WHOLE);
    if (status != SL_OK) {
        return status;
    }
    store->good = other(store);
    store->model = *model;
    memset(&store->coming, 0, sizeof store->coming);
    store->pieces = 0;
    return sl_model_store_drop(store); /* so that the one before is never taken for the newest */
}

sl_status sl_model_store_drop(sl_model_store *store)
{
    memset(&store->coming, 0, sizeof store->coming);
    store->pieces = 0;
    return store->port->storage_erase(store->port->context, store->first_area + other(store));
}

sl_status sl_model_store_read(const sl_model_store *store, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    if (store->good == NONE || offset > store->model.size || size > store->model.size - offset) {
        return SL_TOO_LARGE;
    }
    return read_model(store, store->good, &store->model, offset, bytes, size);
}
