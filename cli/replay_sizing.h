/* replay_sizing.h - divides the memory of the ranks of one side (replay_setup.c calls these in this order). */
#ifndef KVFERRY_CLI_REPLAY_SIZING_H
#define KVFERRY_CLI_REPLAY_SIZING_H

#include "cli/replay_setup.h"

/* Divides the pool into blocks and state slots. False: not even one block fits. */
bool replay_sizing_divide(struct replay_setup *setup, uint32_t side, struct reason *why);
/* The longest prompt that one empty pool on each side holds. */
uint64_t replay_sizing_longest_fit(const struct replay_setup *setup);
/* Index of the longest request. */
uint32_t replay_sizing_longest(const struct replay_setup *setup);
/* Refuses requests that can never fit; gives up slots for blocks before that. */
bool replay_sizing_fit(struct replay_setup *setup, uint32_t side, struct reason *why);
/* Makes the layouts of all ranks. */
bool replay_sizing_layouts(struct replay_setup *setup, uint32_t side, struct reason *why);

#endif
