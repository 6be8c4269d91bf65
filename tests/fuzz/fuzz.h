/* fuzz.h - what one fuzz target provides. tests/fuzz/driver.c runs it in CI; libFuzzer runs it with -Dfuzz=true.
 *
 * A new target: a file NAME.c with these two functions, its name in tests/fuzz/meson.build, and if it has found something,
 * the input that showed it in tests/fuzz/corpus/NAME/.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0; whatever is wrong ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* The nth good input into buffer; its length, 0 when there are no more. */
size_t fuzz_seed(uint32_t n, uint8_t *buffer, size_t max_bytes);

#endif
