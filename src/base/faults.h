/* faults.h - harm that is done on purpose, by seed: which and how often. For tests and `kvferry replay --fault`.
 *
 * transport/fault.c and control/fault.c do it, around any real transport and control channel.
 */
#ifndef KVFI_BASE_FAULTS_H
#define KVFI_BASE_FAULTS_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

enum kvfi_harm {
	KVFI_HARM_LATE = 0, /* a completion or a control message comes up to `within` later */
	KVFI_HARM_HOLD,     /* a post begins up to `within` later */
	KVFI_HARM_FULL,     /* a post finds no room */
	KVFI_HARM_FAIL,     /* a post fails before it moved a byte */
	KVFI_HARM_BREAK,    /* the connection breaks behind a post */
	KVFI_HARM_DROP,     /* a control message is lost */
	KVFI_HARM_REPEAT,   /* a control message comes twice */
	KVFI_HARM_DAMAGE,   /* one bit of a control message is turned */
	KVFI_HARM_DOUBT,    /* a proof is there and not told yet */
	KVFI_HARMS
};

#define KVFI_HARM_ONE UINT32_C(1000000) /* a rate of 1 */

struct kvfi_faults {
	uint64_t seed;
	uint64_t within_ns;
	uint32_t rates[KVFI_HARMS]; /* of KVFI_HARM_ONE */
};

/* "seed=7,within=20,drop=0.1,...": within in milliseconds, 1 to 60000 (10 if it is not named); rates 0 to 1. KVF_EINVAL names the word and its value. */
KVF_MUST_CHECK enum kvf_status kvfi_faults_parse(const char *text, struct kvfi_faults *faults_out);
/* Who does harm draws from a sequence of his own: of the seed and a salt. One thread at a time. */
struct kvfi_dice {
	struct kvfi_faults faults;
	uint64_t salt, drawn;
};

/* The next number. */
uint64_t kvfi_dice_draw(struct kvfi_dice *dice);
/* Does this fault strike now? */
bool kvfi_dice_strike(struct kvfi_dice *dice, enum kvfi_harm harm);
/* Some time from now on, within what the faults allow. */
uint64_t kvfi_dice_due_ns(struct kvfi_dice *dice, uint64_t now_ns);

#endif
