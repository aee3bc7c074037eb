/* The model at hand, in storage: its pieces are kept as they come, so that a download goes on where power was lost.

   Two areas: one holds the newest whole model, the other the one that is coming. An area: a header of 56 bytes (magic,
   version, size, size of a piece, run, CRC-32 of the header, the model's hash), then for each piece a mark of 8 bytes, its
   CRC-32 twice, and the piece, padded to 8. The mark is written after the piece. A last mark says that the whole was checked. */
#ifndef SANDERLING_MODEL_STORE_H
#define SANDERLING_MODEL_STORE_H

#include "sanderling/base.h"
#include "sanderling/port.h"

typedef struct {
    uint8_t hash[32];
    uint32_t version;
    uint32_t run;         /* CRC-32 of its id: versions are compared within a run */
    uint32_t size;        /* bytes of theta */
    uint32_t piece_bytes; /* of every piece but the last */
} sl_stored_model;

typedef struct {
    const sl_port *port;
    uint32_t first_area;
    uint32_t good;            /* 0 or 1: which area holds the newest whole model; 2: neither */
    sl_stored_model model;    /* that one */
    sl_stored_model coming;   /* the one being fetched; size 0: none */
    uint32_t pieces;          /* of it, that are stored */
} sl_model_store;

/* Finds the newest whole model, and one that was coming. */
sl_status sl_model_store_open(sl_model_store *store, const sl_port *port, uint32_t first_area);

/* Begins with a model, or goes on with it where it was coming already: `pieces` tells how much is there.
   SL_WRONG_MODEL where a model of a later version of the same run is at hand, SL_TOO_LARGE where it does not fit. */
sl_status sl_model_store_begin(sl_model_store *store, const sl_stored_model *model);

/* The next piece of the model that is coming. */
sl_status sl_model_store_append(sl_model_store *store, const uint8_t *piece, uint32_t size);

/* `size` bytes of it from `offset` on, of what is stored. */
sl_status sl_model_store_read_coming(const sl_model_store *store, uint32_t offset, uint8_t *bytes, uint32_t size);

/* All pieces are there and the hash is the announced one: this is the newest whole model. */
sl_status sl_model_store_commit(sl_model_store *store);

/* Nothing of the model that was coming is kept. */
sl_status sl_model_store_drop(sl_model_store *store);

/* `size` bytes of the newest whole model from `offset` on. */
sl_status sl_model_store_read(const sl_model_store *store, uint32_t offset, uint8_t *bytes, uint32_t size);

#endif
