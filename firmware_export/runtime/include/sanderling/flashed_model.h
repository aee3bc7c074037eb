/* A flashed model: its network's tables, and what a node needs to know of them. Generated (firmware_export/flashed.py). */
#ifndef SANDERLING_FLASHED_MODEL_H
#define SANDERLING_FLASHED_MODEL_H

#include "sanderling/base.h"
#include "sanderling/head.h"
#include "sanderling/network.h"
#include "sanderling/preprocessing.h"

typedef struct {
    const sl_network *network;
    const uint8_t *network_hash;  /* 32 bytes: the network's content hash */
    uint32_t head_node;           /* the nodes before it compute the features */
    uint32_t features;            /* where those lie in the arena */
    const sl_preprocessing *preprocessing;
    const sl_head *head;
    const uint8_t *golden;        /* 32 bytes: what sl_self_test has to give */
} sl_flashed_model;

#endif
