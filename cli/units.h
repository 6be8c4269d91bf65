/* units.h - numbers, sizes and durations as people write them; strict, exact, never floating point for sizes.
 *
 * Nothing but the value may stand in the text: no spaces, no sign, no rest. The sentences say what is
 * allowed.
 */
#ifndef KVFERRY_CLI_UNITS_H
#define KVFERRY_CLI_UNITS_H

#include <stdint.h>
#include "cli/reason.h"

/* "4096"; decimal digits only. min and max are inclusive. */
bool units_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out, struct reason *why);
/* "4096", "256MiB", "1.5GB", "64k" is not: B, kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
 * Whole bytes. */
bool units_parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *out_bytes, struct reason *why);
/* "60s", "1.5ms"; ns, us, ms, s, m, h. "0" needs no unit. */
bool units_parse_duration(
	const char *text, uint64_t min_ns, uint64_t max_ns, uint64_t *out_ns, struct reason *why);

/* Short forms for people, into buffer (32 bytes are enough); return buffer. "1.50 GiB", "12.3 ms". */
char *units_format_bytes(uint64_t bytes, char buffer[32]);
char *units_format_duration(uint64_t duration_ns, char buffer[32]);
/* "1,234,567" */
char *units_format_count(uint64_t count, char buffer[32]);

#endif
