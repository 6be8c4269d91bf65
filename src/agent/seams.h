/* seams.h - an agent over another world: its control channel, transports and copy workers, given by who opens it.
 *
 * For the virtual cluster (src/sim) and for tests. Such an agent has no progress thread; it never sleeps: its world asks when it wants its next
 * turn and gives it one by kvf_poll. Clocks and random numbers are replaced for the whole process (base/clock.h, base/random.h).
 */
#ifndef KVFI_AGENT_SEAMS_H
#define KVFI_AGENT_SEAMS_H

#include "control/control.h"
#include "transport/transport.h"

#define KVFI_MAX_AGENT_TRANSPORTS 3u

struct kvfi_agent_seams {
	void *self; /* `seam` of both env structs, and of submit */
	const struct kvfi_control_ops *control;
	uint32_t n_transports;
	const struct kvfi_transport_ops *transports[KVFI_MAX_AGENT_TRANSPORTS]; /* in order of preference */
	/* Runs the job once, any time later; not after kvf_agent_close has begun. */
	void (*submit)(void *self, struct kvfi_job *job);
};

/* kvfi_agent_open_with - kvf_agent_open; options->control and options->transports are not looked at, progress_thread must be 0.
 *
 * @seams  copied; NULL: none
 */
KVF_MUST_CHECK enum kvf_status kvfi_agent_open_with(
	const struct kvf_options *options, const struct kvfi_agent_seams *seams, kvf_agent **agent_out);
/* When it wants its next turn, in its own time; 0: at once, KVFI_NEVER: when something comes. */
uint64_t kvfi_agent_next_ns(kvf_agent *agent);

#endif
