#include "sanderling/network.h"

void sl_run(const sl_network *network, uint32_t first, uint32_t last, int8_t *arena)
{
    for (uint32_t i = first; i < last; i++) {
        network->nodes[i].run(&network->nodes[i], arena);
    }
}
