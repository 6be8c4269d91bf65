/* consensus.c - what the ranks of a group agree on.
 *
 * Every round each rank says all it knows: its requests in the order they were added, each with what has happened here. Nothing is said as a change, so a
 * round stands for itself. When all have spoken every rank reads the same reports, and decides the same of the same requests in the order of the
 * first rank's report: of those alone that all ranks have reported. Cancelled anywhere is cancelled, failed anywhere is failed, completed is completed
 * everywhere, ready likewise; with free_together, blocks are freed where all ranks have released and terminated.
 *
 * A round that is open stays open; the tick goes on without it. The thread that ticks.
 *
 * A report: u32 magic, u32 flags, u32 how many, u32 0; each: u64 request id, u32 attempt, u16 bits, i16 status. Little-endian.
 */
#include "executor/guard.h"

#include <stdio.h>
#include <string.h>

#define MAGIC          UINT32_C(0x3147564b) /* "KVG1" */
#define HEADER_BYTES   16u
#define RECORD_BYTES   16u
#define FLAGS_TOGETHER 1u

uint64_t kvfi_guard_report_bytes(uint64_t n_requests)
{
	return HEADER_BYTES + RECORD_BYTES * n_requests;
}

uint32_t kvf_guard_group_bytes(uint32_t max_requests)
{
	const uint64_t bytes = kvfi_guard_report_bytes(max_requests);

	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

static void put(unsigned char *at, uint64_t value, unsigned len_bytes)
{
	for (unsigned i = 0; i < len_bytes; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get(const unsigned char *at, unsigned len_bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < len_bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

/* ---- what this rank says ---- */

static bool is_open(const kvf_guard *guard, const struct guard_entry *entry)
{
	return !entry->decided || (guard->options.free_together != 0 && !entry->freed);
}

static uint32_t write_report(kvf_guard *guard)
{
	unsigned char *at = guard->report + HEADER_BYTES;
	uint32_t n = 0;

	for (uint32_t i = guard->first; i != KVFI_GUARD_NONE; i = guard->entries[i].next) {
		const struct guard_entry *entry = &guard->entries[i];

		if (!is_open(guard, entry))
			continue;
		put(at, entry->request_id, 8);
		put(at + 8, entry->attempt, 4);
		put(at + 12, entry->bits, 2);
		put(at + 14, (uint16_t)(int16_t)entry->status, 2);
		at += RECORD_BYTES;
		n++;
	}
	put(guard->report, MAGIC, 4);
	put(guard->report + 4, guard->options.free_together != 0 ? FLAGS_TOGETHER : 0, 4);
	put(guard->report + 8, n, 4);
	put(guard->report + 12, 0, 4);
	return (uint32_t)kvfi_guard_report_bytes(n);
}

/* ---- what all have said ---- */

static bool is_report(const kvf_guard *guard, const struct kvf_group_part *part)
{
	const unsigned char *at = part->bytes;

	return part->len_bytes >= HEADER_BYTES && get(at, 4) == MAGIC &&
	       get(at + 4, 4) == (guard->options.free_together != 0 ? FLAGS_TOGETHER : 0u) &&
	       part->len_bytes == kvfi_guard_report_bytes(get(at + 8, 4));
}

static uint32_t records_of(const struct kvf_group_part *part)
{
	return (uint32_t)get((const unsigned char *)part->bytes + 8, 4);
}

static const unsigned char *record_of(const struct kvf_group_part *part, uint32_t i)
{
	return (const unsigned char *)part->bytes + HEADER_BYTES + (size_t)i * RECORD_BYTES;
}

static struct guard_entry *entry_of(const kvf_guard *guard, const unsigned char *record)
{
	return kvfi_guard_find(guard, get(record, 8), (uint32_t)get(record + 8, 4));
}

static void hear(kvf_guard *guard, uint32_t rank, const unsigned char *record)
{
	struct guard_entry *entry = entry_of(guard, record);
	const uint32_t bits = (uint32_t)get(record + 12, 2);

	if (entry == NULL || entry->last == rank + 1)
		return; /* not known here: not known everywhere */
	entry->last = rank + 1;
	entry->all = entry->heard == 0 ? bits : entry->all & bits;
	if ((bits & GUARD_FAILED) != 0 && (entry->any & GUARD_FAILED) == 0)
		entry->first_status = (enum kvf_status)(int16_t)(uint16_t)get(record + 14, 2);
	entry->any |= bits;
	entry->heard++;
}

static void act(kvf_guard *guard, struct guard_entry *entry)
{
	const uint32_t both = GUARD_RELEASED | GUARD_TERMINATED;
	const uint32_t ends = entry->any & (GUARD_FAILED | GUARD_CANCELLED);

	if (entry->heard != guard->group.n_ranks)
		return;
	if (!entry->decided && ends == 0 && !entry->ready_told && (entry->all & GUARD_READY) != 0) {
		entry->ready_told = true;
		kvfi_guard_tell(guard, entry, KVF_GUARD_READY, KVF_OK);
	}
	if (!entry->decided && (ends != 0 || (entry->all & GUARD_COMPLETED) != 0))
		kvfi_guard_decide(guard, entry, entry->any, entry->first_status);
	if (guard->options.free_together != 0 && !entry->freed && (entry->all & both) == both)
		kvfi_guard_free_blocks(guard, entry);
}

static void bad_group(kvf_guard *guard, const char *text)
{
	guard->group_bad = true;
	(void)snprintf(guard->group_text, sizeof(guard->group_text), "%.*s",
		(int)sizeof(guard->group_text) - 1, text);
}

static bool read_reports(kvf_guard *guard)
{
	for (uint32_t rank = 0; rank < guard->group.n_ranks; rank++) {
		char text[80];

		if (is_report(guard, &guard->parts[rank]))
			continue;
		(void)snprintf(text, sizeof(text), "rank %u is no guard, or has other options", rank);
		bad_group(guard, text);
		return false;
	}
	for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = guard->entries[at].next) {
		struct guard_entry *entry = &guard->entries[at];

		entry->heard = entry->last = entry->all = entry->any = 0;
	}
	for (uint32_t rank = 0; rank < guard->group.n_ranks; rank++)
		for (uint32_t i = 0; i < records_of(&guard->parts[rank]); i++)
			hear(guard, rank, record_of(&guard->parts[rank], i));
	for (uint32_t i = 0; i < records_of(&guard->parts[0]); i++) {
		struct guard_entry *entry = entry_of(guard, record_of(&guard->parts[0], i));

		if (entry != NULL)
			act(guard, entry);
	}
	return true;
}

/* ---- rounds ---- */

static void end_round(kvf_guard *guard, uint64_t now_ns)
{
	const enum kvf_status status = guard->group.test(guard->group.self, guard->round, guard->parts);
	char text[160];

	if (status == KVF_OK) {
		guard->round_open = false;
		guard->group_bad = !read_reports(guard);
		return;
	}
	if (status != KVF_EAGAIN) {
		bad_group(guard, kvf_error());
		return;
	}
	if (guard->options.round_timeout_ns == 0 ||
		now_ns - guard->posted_ns <= guard->options.round_timeout_ns)
		return;
	(void)snprintf(text, sizeof(text), "round %llu has been open for %llu ms: %.80s",
		(unsigned long long)guard->round, (unsigned long long)((now_ns - guard->posted_ns) / 1000000),
		kvf_error());
	bad_group(guard, text);
}

static void begin_round(kvf_guard *guard, uint64_t now_ns)
{
	const uint32_t len_bytes = write_report(guard);
	const enum kvf_status status =
		guard->group.post(guard->group.self, guard->round + 1, guard->report, len_bytes);

	if (status == KVF_OK) {
		guard->round++;
		guard->round_open = true;
		guard->posted_ns = now_ns;
	} else if (status != KVF_EAGAIN && status != KVF_EFULL) {
		bad_group(guard, kvf_error());
	}
}

void kvfi_guard_round(kvf_guard *guard, uint64_t now_ns)
{
	if (guard->round_open)
		end_round(guard, now_ns);
	if (!guard->round_open)
		begin_round(guard, now_ns);
}

void kvfi_guard_decide_alone(kvf_guard *guard)
{
	if (!guard->dirty)
		return;
	for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = guard->entries[at].next) {
		struct guard_entry *entry = &guard->entries[at];

		if (entry->decided)
			continue;
		if ((entry->bits & GUARD_ENDED) != 0) {
			kvfi_guard_decide(guard, entry, entry->bits, entry->status);
		} else if ((entry->bits & GUARD_READY) != 0 && !entry->ready_told) {
			entry->ready_told = true;
			kvfi_guard_tell(guard, entry, KVF_GUARD_READY, KVF_OK);
		}
	}
}
