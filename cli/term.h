/* term.h - what depends on whether a person is watching: colours and a progress bar.
 *
 * Colours appear only on a terminal, never with NO_COLOR set or TERM=dumb. The progress bar goes to stderr,
 * only when that is a terminal, and only after a second of work.
 */
#ifndef KVFERRY_CLI_TERM_H
#define KVFERRY_CLI_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum term_style {
	TERM_PLAIN,
	TERM_BOLD,
	TERM_DIM,
	TERM_GREEN,
	TERM_RED,
	TERM_YELLOW,
	TERM_CYAN
};

bool term_is_colour(FILE *stream);
/* The escape that begins a style on this stream; "" without colours. TERM_PLAIN resets. */
const char *term_style(FILE *stream, enum term_style style);
uint32_t term_columns(FILE *stream); /* 80 if not known */

/* Prints "kvferry: sentence" on stderr, "kvferry:" in red on a terminal. */
void term_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void term_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One at a time; one thread. Plain memory. */
struct term_progress {
	const char *what;
	const char *unit; /* "requests"; "bytes" prints sizes */
	uint64_t total;
	uint64_t start_ns, drawn_ns;
	bool enabled, drawn;
};
void term_progress_start(struct term_progress *progress, const char *what, const char *unit, uint64_t total);
void term_progress_update(
	struct term_progress *progress, uint64_t done); /* cheap: redraws at most ten times a second */
void term_progress_end(struct term_progress *progress); /* wipes the bar */

#endif
