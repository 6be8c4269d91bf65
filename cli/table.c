/* table.c - cells are kept as text until the table is printed, when the widths are known. The table owns its rows. One thread. */
#include "cli/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli/term.h"

struct table {
	uint32_t columns;
	char *headers[TABLE_MAX_COLUMNS];
	bool right[TABLE_MAX_COLUMNS];
	char **cells;
	size_t n_cells, capacity;
};

struct table *table_new(const char *const *columns, uint32_t n)
{
	struct table *table = n <= TABLE_MAX_COLUMNS ? calloc(1, sizeof *table) : NULL;

	if (!table)
		return NULL;
	table->columns = n;
	for (uint32_t i = 0; i < n; i++) {
		table->right[i] = columns[i][0] == '>';
		table->headers[i] = strdup(columns[i] + table->right[i]);
		if (!table->headers[i]) {
			table_free(table);
			return NULL;
		}
	}
	return table;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	for (uint32_t i = 0; i < table->columns; i++)
		free(table->headers[i]);
	for (size_t i = 0; i < table->n_cells; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

void table_cell(struct table *table, const char *format, ...)
{
	char *text = NULL;
	va_list list;

	if (!table)
		return;
	if (table->n_cells == table->capacity) {
		size_t capacity = table->capacity ? table->capacity * 2 : 64;
		char **cells = realloc(table->cells, capacity * sizeof *cells);

		if (!cells)
			return;
		table->cells = cells;
		table->capacity = capacity;
	}
	va_start(list, format);
	if (vasprintf(&text, format, list) < 0)
		text = NULL;
	va_end(list);
	if (text)
		table->cells[table->n_cells++] = text;
}

/* Characters on the screen: UTF-8 continuation bytes take no room. */
static uint32_t text_width(const char *text)
{
	uint32_t width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void print_padded(FILE *out, const char *text, uint32_t width, bool right, bool is_last)
{
	uint32_t pad = width - text_width(text);

	if (right)
		fprintf(out, "%*s%s", (int)pad, "", text);
	else
		fprintf(out, "%s%*s", text, is_last ? 0 : (int)pad, "");
}

void table_print(const struct table *table, FILE *out)
{
	uint32_t widths[TABLE_MAX_COLUMNS];

	if (!table || table->columns == 0)
		return;
	for (uint32_t i = 0; i < table->columns; i++)
		widths[i] = text_width(table->headers[i]);
	for (size_t i = 0; i < table->n_cells; i++) {
		uint32_t *width = &widths[i % table->columns], own = text_width(table->cells[i]);

		*width = own > *width ? own : *width;
	}
	fputs(term_style(out, TERM_DIM), out);
	for (uint32_t i = 0; i < table->columns; i++) {
		fputs("  ", out);
		print_padded(out, table->headers[i], widths[i], table->right[i], i + 1 == table->columns);
	}
	fprintf(out, "%s\n", term_style(out, TERM_PLAIN));
	for (size_t i = 0; i < table->n_cells; i++) {
		uint32_t column = (uint32_t)(i % table->columns);
		bool is_last = column + 1 == table->columns || i + 1 == table->n_cells;

		fputs("  ", out);
		print_padded(out, table->cells[i], widths[column], table->right[column], is_last);
		if (is_last)
			fputc('\n', out);
	}
}
