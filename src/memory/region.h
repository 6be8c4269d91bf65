/* region.h - registered memory of an agent, and the region-relative form of addresses that travels on the wire.
 *
 * A wire address is (region index << 48) | offset. Regions are page-aligned when the agent allocated them (memfd), anything when the
 * user registered them. Owned by the agent; changed only by its front (the user's thread); transports read it after register().
 */
#ifndef KVFI_MEMORY_REGION_H
#define KVFI_MEMORY_REGION_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

#define KVFI_REGION_SHIFT 48u

struct kvfi_region {
	unsigned char *memory;
	uint64_t len_bytes;
	int fd;              /* memfd, or -1: the caller's memory, cannot be mapped by a peer */
	uint32_t generation; /* of the handle */
	uint32_t users;      /* declared layouts and unreleased sessions that touch it */
	bool in_use;
};

struct kvfi_regions {
	struct kvfi_region *table;
	uint32_t max;
};

KVF_MUST_CHECK enum kvf_status kvfi_regions_init(struct kvfi_regions *regions, uint32_t max);
/* Frees what is left. */
void kvfi_regions_fini(struct kvfi_regions *regions);
/* The same, but all memory stays mapped until the process ends: somebody may still be writing into it. */
void kvfi_regions_abandon(struct kvfi_regions *regions);
/* memfd of len_bytes, mapped shared, populated, MADV_DONTFORK, close-on-exec, no name in any file system. */
KVF_MUST_CHECK enum kvf_status kvfi_regions_alloc(
	struct kvfi_regions *regions, uint64_t len_bytes, uint32_t *index_out);
KVF_MUST_CHECK enum kvf_status kvfi_regions_register(
	struct kvfi_regions *regions, void *memory, uint64_t len_bytes, uint32_t *index_out);
/* KVF_EBUSY while users > 0. */
KVF_MUST_CHECK enum kvf_status kvfi_regions_remove(struct kvfi_regions *regions, uint32_t index);
kvf_region kvfi_region_handle(const struct kvfi_regions *regions, uint32_t index);
KVF_MUST_CHECK enum kvf_status kvfi_region_find(
	const struct kvfi_regions *regions, kvf_region handle, uint32_t *index_out);
/* [address, address + len) inside one region: its wire address. KVF_EINVAL if in none. */
KVF_MUST_CHECK enum kvf_status kvfi_regions_to_wire(
	const struct kvfi_regions *regions, uint64_t address, uint64_t len_bytes, uint64_t *wire_out);

#endif
