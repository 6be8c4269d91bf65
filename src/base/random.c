/* random.c - see random.h. Any thread. */
#include "base/random.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/random.h>
#include <sys/types.h>

static const struct kvfi_random_source *_Atomic source;

void kvfi_random_set(const struct kvfi_random_source *instead)
{
	atomic_store(&source, instead);
}

bool kvfi_random(void *buffer, size_t len_bytes)
{
	const struct kvfi_random_source *instead = atomic_load(&source);
	unsigned char *at = buffer;

	if (instead != NULL) {
		instead->draw(instead->self, buffer, len_bytes);
		return true;
	}
	while (len_bytes > 0) {
		ssize_t got = getrandom(at, len_bytes, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		at += got;
		len_bytes -= (size_t)got;
	}
	return true;
}
