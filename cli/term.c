/* term.c - colours, sentences on stderr, and the progress bar.
 *
 * What a stream is (terminal or not) is asked at every use: it costs a system call and is right after a redirection.
 * The bar draws from the caller's thread only.
 */
#include "cli/term.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/units.h"

#define DRAW_AFTER_NS UINT64_C(1000000000)
#define DRAW_EVERY_NS UINT64_C(100000000)

bool term_is_colour(FILE *stream)
{
	const char *no_colour = getenv("NO_COLOR");
	const char *terminal = getenv("TERM");

	if (no_colour && *no_colour)
		return false;
	return isatty(fileno(stream)) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

const char *term_style(FILE *stream, enum term_style style)
{
	static const char *const codes[] = {
		"\033[0m", "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[33m", "\033[36m"};

	return term_is_colour(stream) ? codes[style] : "";
}

uint32_t term_columns(FILE *stream)
{
	struct winsize size;

	if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return 80;
}

static void print_sentence(enum term_style style, const char *format, va_list list)
{
	fprintf(stderr, "%skvferry:%s ", term_style(stderr, style), term_style(stderr, TERM_PLAIN));
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
}

void term_error(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	print_sentence(TERM_RED, format, list);
	va_end(list);
}

void term_note(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	print_sentence(TERM_BOLD, format, list);
	va_end(list);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void term_progress_start(struct term_progress *progress, const char *what, const char *unit, uint64_t total)
{
	*progress = (struct term_progress){.what = what,
		.unit = unit,
		.total = total,
		.start_ns = now_ns(),
		.enabled = isatty(fileno(stderr)) != 0};
}

static void format_amount(const struct term_progress *progress, uint64_t amount, char buffer[32])
{
	if (!strcmp(progress->unit, "bytes"))
		units_format_bytes(amount, buffer);
	else
		units_format_count(amount, buffer);
}

static void draw(const struct term_progress *progress, uint64_t done, uint64_t elapsed_ns)
{
	char now[32], all[32], left[32] = "";
	uint32_t width = term_columns(stderr) >= 100 ? 40 : 24;
	double share = progress->total ? (double)done / (double)progress->total : 0;
	uint32_t filled = (uint32_t)((share > 1 ? 1 : share) * width);
	bool is_bytes = !strcmp(progress->unit, "bytes");

	format_amount(progress, done, now);
	format_amount(progress, progress->total, all);
	if (done && done < progress->total)
		units_format_duration((uint64_t)((double)elapsed_ns / share) - elapsed_ns, left);
	fprintf(stderr, "\r\033[K%s [", progress->what);
	for (uint32_t i = 0; i < width; i++)
		fputc(i < filled ? '#' : '.', stderr);
	fprintf(stderr, "] %s/%s%s%s%s%s", now, all, is_bytes ? "" : " ", is_bytes ? "" : progress->unit,
		*left ? ", left: " : "", left);
	fflush(stderr);
}

void term_progress_update(struct term_progress *progress, uint64_t done)
{
	uint64_t now;

	if (!progress->enabled)
		return;
	now = now_ns();
	if (now - progress->start_ns < DRAW_AFTER_NS || now - progress->drawn_ns < DRAW_EVERY_NS)
		return;
	progress->drawn_ns = now;
	progress->drawn = true;
	draw(progress, done, now - progress->start_ns);
}

void term_progress_end(struct term_progress *progress)
{
	if (progress->drawn)
		fputs("\r\033[K", stderr);
	progress->enabled = false;
	progress->drawn = false;
}
