/* options.c - defaults, checks and a copy of the options of an agent. Pure but for the memory of the copy. */
#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/status.h"

#define MAX_ZMQ_PEERS 16383u /* two ways each, and libzmq numbers sockets with 16 bits */

void kvf_options_init(struct kvf_options *options)
{
	memset(options, 0, sizeof(*options));
	options->struct_bytes = sizeof(*options);
	options->progress_thread = 1;
	options->workers = 2;
	options->max_peers = 64;
	options->max_sessions = 1024;
	options->max_links = 4096;
	options->max_slices = 8192;
	options->max_block_ids = UINT64_C(4) << 20;
	options->max_regions = 64;
	options->connect_timeout_ns = 10 * KVFI_NS_PER_S;
	options->queue_timeout_ns = 60 * KVFI_NS_PER_S;
	options->transfer_timeout_ns = 60 * KVFI_NS_PER_S;
	options->stall_timeout_ns = 10 * KVFI_NS_PER_S;
	options->quiet_timeout_ns = 5 * KVFI_NS_PER_S;
	options->ping_ns = 1 * KVFI_NS_PER_S;
	options->silence_timeout_ns = 5 * KVFI_NS_PER_S;
	options->progress_timeout_ns = 60 * KVFI_NS_PER_S;
	options->stuck_budget = 16;
}

struct limit {
	const char *name;
	uint64_t value, min, max;
};

static enum kvf_status check_limits(const struct kvf_options *options)
{
	const struct limit limits[] = {
		{"struct_bytes", options->struct_bytes, sizeof(*options), sizeof(*options)},
		{"progress_thread", options->progress_thread, 0, 1},
		{"workers", options->workers, 1, 64},
		{"max_peers", options->max_peers, 1, 65536},
		{"max_sessions", options->max_sessions, 1, 1u << 20},
		{"max_links", options->max_links, 1, 1u << 22},
		{"max_slices", options->max_slices, 1, 1u << 24},
		{"max_block_ids", options->max_block_ids, 1, 1u << 30},
		{"max_regions", options->max_regions, 1, 65535},
		{"verify", (uint64_t)options->verify, KVF_VERIFY_NONE, KVF_VERIFY_SUM},
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		if (limits[i].value < limits[i].min || limits[i].value > limits[i].max)
			return kvfi_fail(KVF_EINVAL, "options: %s: %llu is not in %llu..%llu", limits[i].name,
				(unsigned long long)limits[i].value, (unsigned long long)limits[i].min,
				(unsigned long long)limits[i].max);
	return KVF_OK;
}

/* Deadlines that could never be judged as they are meant; 0 is off, and then there is no order. */
static enum kvf_status check_order(const struct kvf_options *options)
{
	const struct kvf_options *o = options;

	if (o->stall_timeout_ns > 0 && o->transfer_timeout_ns > 0 &&
		o->stall_timeout_ns > o->transfer_timeout_ns)
		return kvfi_fail(KVF_EINVAL,
			"options: stall_timeout_ns: %llu is more than transfer_timeout_ns, which is %llu",
			(unsigned long long)o->stall_timeout_ns, (unsigned long long)o->transfer_timeout_ns);
	if (o->silence_timeout_ns > 0 && o->ping_ns == 0)
		return kvfi_fail(KVF_EINVAL,
			"options: ping_ns: 0 asks no peer, and silence_timeout_ns is %llu: every idle one "
			"would be lost",
			(unsigned long long)o->silence_timeout_ns);
	if (o->silence_timeout_ns > 0 && o->ping_ns >= o->silence_timeout_ns)
		return kvfi_fail(KVF_EINVAL,
			"options: ping_ns: %llu is not less than silence_timeout_ns, which is %llu",
			(unsigned long long)o->ping_ns, (unsigned long long)o->silence_timeout_ns);
	return KVF_OK;
}

/* Longer than anything lives, and short enough that no sum of a time and a few of them overflows. */
#define LONGEST_NS (UINT64_C(100) * 365 * 24 * 3600 * KVFI_NS_PER_S)

static void cap_times(struct kvf_options *options)
{
	uint64_t *const times[] = {&options->connect_timeout_ns, &options->queue_timeout_ns,
		&options->transfer_timeout_ns, &options->stall_timeout_ns, &options->quiet_timeout_ns,
		&options->ping_ns, &options->silence_timeout_ns, &options->progress_timeout_ns};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		if (*times[i] > LONGEST_NS)
			*times[i] = LONGEST_NS;
}

static bool known_transport(const char *name, size_t len)
{
	return (len == 4 && memcmp(name, "loop", 4) == 0) || (len == 3 && memcmp(name, "shm", 3) == 0) ||
	       (len == 3 && memcmp(name, "tcp", 3) == 0);
}

/* Is the item at `item` named before it in the list? */
static bool named_before(const char *list, const char *item, size_t len)
{
	for (const char *at = list; at < item; at += strcspn(at, ",") + 1)
		if (strcspn(at, ",") == len && memcmp(at, item, len) == 0)
			return true;
	return false;
}

static enum kvf_status check_transports(const char *list)
{
	if (strcmp(list, "auto") == 0)
		return KVF_OK;
	for (const char *at = list;; at++) {
		size_t len = strcspn(at, ",");

		if (named_before(list, at, len))
			return kvfi_fail(
				KVF_EINVAL, "options: transports: \"%.*s\" is named twice", (int)len, at);

		if (!known_transport(at, len))
			return kvfi_fail(KVF_EINVAL,
				"options: transports: \"%.*s\" is none of loop, shm, tcp, auto", (int)len,
				at);
		at += len;
		if (*at == '\0')
			return KVF_OK;
	}
}

static enum kvf_status check_control(const char *control, uint32_t max_peers)
{
	if (strcmp(control, "inproc") == 0)
		return KVF_OK;
	if (strcmp(control, "zmq") != 0)
		return kvfi_fail(KVF_EINVAL, "options: control: \"%s\" is neither zmq nor inproc", control);
	if (max_peers > MAX_ZMQ_PEERS)
		return kvfi_fail(KVF_EINVAL, "options: max_peers: %u is not in 1..%u with control zmq",
			max_peers, MAX_ZMQ_PEERS);
#ifdef KVFI_WITH_ZMQ
	return KVF_OK;
#else
	return kvfi_fail(KVF_EUNSUPPORTED, "options: control: this build has no zmq");
#endif
}

static const char *default_runtime_dir(char *buffer, size_t len_bytes, unsigned uid)
{
	const char *base = getenv("XDG_RUNTIME_DIR");

	if (base != NULL && base[0] == '/')
		(void)snprintf(buffer, len_bytes, "%s/kvferry", base);
	else
		(void)snprintf(buffer, len_bytes, "/tmp/kvferry-%u", uid);
	return buffer;
}

static const char *keep_string(char **at, const char *text)
{
	char *kept = *at;

	(void)strcpy(kept, text);
	*at += strlen(text) + 1;
	return kept;
}

enum kvf_status kvfi_options_take(kvf_agent *agent, const struct kvf_options *options)
{
#ifdef KVFI_WITH_ZMQ
	const char *control = options->control != NULL ? options->control : "zmq";
#else
	const char *control = options->control != NULL ? options->control : "inproc";
#endif
	const char *transports = options->transports != NULL ? options->transports : "auto";
	const char *data_listen = options->data_listen != NULL ? options->data_listen : "127.0.0.1:0";
	const char *name = options->name != NULL ? options->name : "agent";
	const char *listen = options->listen != NULL ? options->listen : "";
	const char *record = options->record != NULL ? options->record : "";
	const char *faults = options->faults != NULL ? options->faults : "";
	char buffer[256];
	const char *runtime_dir = options->runtime_dir != NULL
	                                  ? options->runtime_dir
	                                  : default_runtime_dir(buffer, sizeof(buffer), (unsigned)getuid());
	enum kvf_status status = check_limits(options);
	char *at;

	if (status == KVF_OK)
		status = check_order(options);
	if (status == KVF_OK)
		status = check_transports(transports);
	if (status == KVF_OK)
		status = check_control(control, options->max_peers);
	if (status == KVF_OK && options->faults != NULL &&
		(status = kvfi_faults_parse(options->faults, &agent->faults)) != KVF_OK)
		return kvfi_fail_prefix(status, "options");
	if (status != KVF_OK)
		return status;
	if (strlen(listen) >= KVFI_ENDPOINT_BYTES)
		return kvfi_fail(
			KVF_EINVAL, "options: listen: longer than %u bytes", KVFI_ENDPOINT_BYTES - 1);
	agent->options = *options;
	cap_times(&agent->options);
	at = agent->strings =
		malloc(strlen(control) + strlen(transports) + strlen(data_listen) + strlen(name) +
			strlen(listen) + strlen(runtime_dir) + strlen(record) + strlen(faults) + 8);
	if (at == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for the options");
	agent->options.control = keep_string(&at, control);
	agent->options.transports = keep_string(&at, transports);
	agent->options.data_listen = keep_string(&at, data_listen);
	agent->options.name = keep_string(&at, name);
	agent->options.listen = options->listen != NULL ? keep_string(&at, listen) : NULL;
	agent->options.runtime_dir = keep_string(&at, runtime_dir);
	agent->options.record = options->record != NULL ? keep_string(&at, record) : NULL;
	agent->options.faults = options->faults != NULL ? keep_string(&at, faults) : NULL;
	return KVF_OK;
}

void kvfi_options_drop(kvf_agent *agent)
{
	free(agent->strings);
	agent->strings = NULL;
}

/* Is this transport wanted, and at which place of the list?  auto: shm where it can be, else tcp, else loop. */
bool kvfi_options_wants(const kvf_agent *agent, const char *transport, uint32_t *place_out)
{
	const char *list = agent->options.transports;
	size_t len = strlen(transport);
	uint32_t place = 0;

	if (strcmp(list, "auto") == 0)
		list = "shm,tcp,loop";
	for (const char *at = list;; at++, place++) {
		size_t n = strcspn(at, ",");

		if (n == len && memcmp(at, transport, len) == 0) {
			*place_out = place;
			return true;
		}
		at += n;
		if (*at == '\0')
			return false;
	}
}
