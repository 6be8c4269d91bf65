/* table.h - a text table: columns as wide as their widest cell, numbers to the right, a dim header.
 *
 * Rows are copied. Running out of memory prints what is there.
 */
#ifndef KVFERRY_CLI_TABLE_H
#define KVFERRY_CLI_TABLE_H

#include <stdint.h>
#include <stdio.h>

#define TABLE_MAX_COLUMNS 16u

struct table;

/* columns: n headers; one that begins with '>' is aligned to the right. NULL when out of memory; all below
 * accept that. */
struct table *table_new(const char *const *columns, uint32_t n);
void table_free(struct table *table);
/* The next cell, row by row, formatted. */
void table_cell(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_print(const struct table *table, FILE *out);

#endif
