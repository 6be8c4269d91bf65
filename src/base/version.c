/* version.c - what this build is. Constants; any thread. */
#include "kvferry/kvferry.h"

const char *kvf_version(void)
{
	return KVF_VERSION;
}

const char *kvf_features(void)
{
#ifdef KVFI_WITH_ZMQ
	return "zmq msgpack";
#else
	return "";
#endif
}
