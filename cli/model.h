/* model.h - which KV cache a model has: from the built-in table, an inline description, or a Hugging Face
 * config.json.
 *
 * Global layer ids count the layers that keep something for a request (attention and recurrent state), in
 * model order; layers without a cache (MLP only) have no id. `stages=` of a rank spec counts the same layers.
 * Where an inline description names attention and state layers they are interleaved evenly: of T = A + S
 * layers attention layer i gets id floor((2i + 1) * T / (2A)), the state layers fill the rest.
 *
 * Groups, in this order, those without layers left out: full attention (PAGED), sliding windows (WINDOW),
 * recurrent state (STATE).
 */
#ifndef KVFERRY_CLI_MODEL_H
#define KVFERRY_CLI_MODEL_H

#include "cli/reason.h"
#include "kvferry/kvferry.h"

#define MODEL_MAX_GROUPS 3u

/* Points into itself: do not copy or move it. */
struct model {
	struct kvf_model kvf;
	struct kvf_group_spec groups[MODEL_MAX_GROUPS];
	uint32_t layer_ids[MODEL_MAX_GROUPS][KVF_MAX_LAYERS];
	char name[256];
	uint32_t n_layers;        /* all groups */
	uint64_t bytes_per_token; /* all attention layers, windowed ones included, all parts */
	uint64_t state_bytes;     /* per request, all state layers */
};

/* model_parse - text of --model: a built-in name,
 * "layers=4,heads=4,head_dim=128,dtype=fp32[,mla][,window=W:every=E][,state=LAYERS:BYTES:SECTIONS]", or a
 * path to a config.json (contains '/' or ends in ".json"). SECTIONS: UNITSxUNIT_BYTES joined by '+',
 * "8192x6+128x32768"; BYTES is their sum, per layer.
 */
bool model_parse(const char *text, struct model *model, struct reason *why);
void model_fini(struct model *model);

#endif
