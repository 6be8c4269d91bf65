/* reason.c - sentences of refusals, and the nearest name to a mistyped one. Pure; any thread. */
#include "cli/reason.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Macros for the static analyser. */
#undef reason_set
#undef reason_prefix

bool reason_set(struct reason *why, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	(void)vsnprintf(why->text, sizeof why->text, format, list);
	va_end(list);
	return false;
}

bool reason_prefix(struct reason *why, const char *format, ...)
{
	struct reason old = *why;
	size_t used;
	va_list list;

	va_start(list, format);
	(void)vsnprintf(why->text, sizeof why->text, format, list);
	va_end(list);
	used = strlen(why->text);
	(void)snprintf(why->text + used, sizeof why->text - used, ": %s", old.text);
	return false;
}

#define NEAREST_MAX 48u

/* Edits (insert, delete, replace, swap of neighbours) between two words, letter case and '_' against '-' ignored. */
static uint32_t edit_distance(const char *a, size_t len_a, const char *b, size_t len_b)
{
	uint32_t rows[3][NEAREST_MAX + 1];
	uint32_t *before = rows[0], *above = rows[1], *here = rows[2];

	for (uint32_t j = 0; j <= len_b; j++)
		above[j] = j;
	for (uint32_t i = 1; i <= len_a; i++) {
		here[0] = i;
		for (uint32_t j = 1; j <= len_b; j++) {
			uint32_t best = above[j - 1] + (a[i - 1] != b[j - 1]);

			best = above[j] + 1 < best ? above[j] + 1 : best;
			best = here[j - 1] + 1 < best ? here[j - 1] + 1 : best;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			here[j] = best;
		}
		uint32_t *recycled = before;

		before = above;
		above = here;
		here = recycled;
	}
	return above[len_b];
}

static size_t fold(const char *word, char folded[NEAREST_MAX])
{
	size_t len = 0;

	for (; word[len] && len < NEAREST_MAX; len++)
		folded[len] = (char)(word[len] == '_' ? '-' : tolower((unsigned char)word[len]));
	return len;
}

const char *reason_nearest(const char *word, const char *const *candidates, size_t n)
{
	char a[NEAREST_MAX], b[NEAREST_MAX];
	size_t len_a = fold(word, a);
	const char *nearest = NULL;
	uint32_t best = (uint32_t)(len_a / 3 + 1) + 1; /* one edit more than what is still near */

	for (size_t i = 0; i < n; i++) {
		size_t len_b = fold(candidates[i], b);
		uint32_t distance = edit_distance(a, len_a, b, len_b);

		if (distance < best) {
			best = distance;
			nearest = candidates[i];
		}
	}
	return nearest;
}
